// What the checks of `browsing.py` look at inside a page, by name.
({
  // Axe gives up on text above any background picture, which the edges of our scrolling boxes are,
  // and on text that a box has scrolled away. This compares colours alone: that of each text with
  // those of the elements around it.
  faint() {
    const dark = matchMedia('(prefers-color-scheme: dark)').matches;
    const parse = colour => {
      const [r, g, b, a = 1] = colour.match(/[\d.]+/g).map(Number);
      return [r, g, b, a];
    };
    const over = (top, under) => [0, 1, 2].map(i => top[3] * top[i] + (1 - top[3]) * under[i]);
    const linear = v => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const luminance = rgb => {
      const [r, g, b] = rgb.map(v => linear(v / 255));
      return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = element => {
      if (!element) return dark ? [18, 18, 18] : [255, 255, 255];
      const own = parse(getComputedStyle(element).backgroundColor);
      return own[3] === 1 ? own.slice(0, 3) : over(own, behind(element.parentElement));
    };
    const found = new Map();
    for (const text of this.texts()) {
      const element = text.parentElement, style = getComputedStyle(element);
      const ground = behind(element);
      const colour = parse(element instanceof SVGElement ? style.fill : style.color);
      for (let e = element; e; e = e.parentElement) colour[3] *= getComputedStyle(e).opacity;
      const [one, other] = [luminance(over(colour, ground)), luminance(ground)];
      const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
      const size = parseFloat(style.fontSize);
      const wanted = size >= 24 || (size >= 18.66 && style.fontWeight >= 700) ? 3 : 4.5;
      if (ratio >= wanted) continue;
      const where = `${element.localName}.${element.getAttribute('class') || ''}`;
      const words = text.data.trim().slice(0, 40);
      found.set(where, `contrast ${ratio.toFixed(2)} of ${wanted} in ${where}: ${words}`);
    }
    return [...found.values()];
  },

  // How many elements there are outside of closed parts and of those that wait for a script, and how
  // many of them can be seen.
  shown(selector) {
    const all = [...document.querySelectorAll(selector)];
    const open = all.filter(e => !e.closest('details:not([open]), div[hidden], form[hidden]'));
    const seen = open.filter(e => this.visible(e) && e.getClientRects().length);
    return [open.length, seen.length];
  },

  // Letters of a block of text lie on lines. A foreign text counts as one piece; whatever its
  // direction, pieces of a line must follow each other from left to right as they do in the text.
  spills(foreign) {
    const blocks = new Map();
    for (const text of this.texts()) {
      if (text.parentElement.closest('svg')) continue;
      let home = text.parentElement;
      while (getComputedStyle(home).display === 'inline') home = home.parentElement;
      blocks.set(home, [...(blocks.get(home) || []), text]);
    }
    const found = [];
    for (const texts of blocks.values()) {
      const whole = texts.map(text => text.data).join('');
      if (!whole.includes(foreign)) continue;
      const places = texts.flatMap(text => this.letters(text));
      const lines = [];
      for (let start = 0, length; start < whole.length; start += length) {
        length = whole.startsWith(foreign, start) ? foreign.length : 1;
        const piece = whole.slice(start, start + length);
        if (!piece.trim()) continue;
        const ends = new Map();
        for (const box of places.slice(start, start + length).filter(box => box && box.width)) {
          const middle = (box.top + box.bottom) / 2;
          let line = lines.find(one => one.top < middle && middle < one.bottom);
          if (!line) lines.push((line = {top: box.top, bottom: box.bottom, right: -Infinity}));
          if (box.left < line.right - 1) {
            found.push(`'${piece}' lies left of '${line.last}' in '${whole.trim().slice(0, 80)}'`);
          }
          ends.set(line, Math.max(box.right, ends.get(line) || -Infinity));
        }
        for (const [line, right] of ends) Object.assign(line, {right, last: piece});
      }
    }
    return found;
  },

  // Texts and attributes with a character that turns the direction of others.
  controls() {
    const turning = /[\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069]/;
    const nodes = document.createTreeWalker(document, NodeFilter.SHOW_TEXT);
    const found = [];
    while (nodes.nextNode()) found.push(nodes.currentNode.data);
    for (const element of document.querySelectorAll('*')) {
      for (const {name, value} of element.attributes) found.push(`${name}=${value}`);
    }
    return found.filter(text => turning.test(text)).map(text => text.slice(0, 100));
  },

  // Attributes in which a page would carry a script.
  handlers() {
    const all = [...document.querySelectorAll('*')].flatMap(e => [...e.attributes]);
    return all.filter(a => a.name.startsWith('on')).map(a => `${a.name}=${a.value.slice(0, 100)}`);
  },

  visible(element) {
    return element.checkVisibility({visibilityProperty: true});
  },

  // All texts that a reader sees.
  texts() {
    const nodes = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const found = [];
    while (nodes.nextNode()) {
      const home = nodes.currentNode.parentElement;
      const said = nodes.currentNode.data.trim() && !home.closest('script, style, title, desc');
      if (said && this.visible(home)) found.push(nodes.currentNode);
    }
    return found;
  },

  // The box of each letter of a text.
  letters(text) {
    const range = document.createRange();
    return [...Array(text.length).keys()].map(place => {
      range.setStart(text, place);
      range.setEnd(text, place + 1);
      return range.getClientRects()[0];
    });
  },
})
