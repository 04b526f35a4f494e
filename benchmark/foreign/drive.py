"""Google Drive's answers that are no file, told apart: each has another next step."""

import re
from collections.abc import Mapping

from benchmark.downloads import Judge, SourceFailed, no_page
from benchmark.errors import shorten

HOST = "https://drive.usercontent.google.com"

_TITLE = re.compile(rb"<title>([^<]{1,200})</title>", re.IGNORECASE)


def address_of(drive_id: str, host: str = HOST) -> str:
    """Returns where a file of Google Drive is downloaded, the virus-scan page already confirmed."""
    return f"{host}/download?id={drive_id}&export=download&confirm=t"


def judge_of(drive_id: str, host: str = HOST) -> Judge:
    """Returns what tells Google Drive's pages from the file.

    Its judge raises `SourceFailed` for a quota, sign-in, missing-file or any other page, and
    returns the confirmed address behind the page that warns of files too large to scan, once.
    """
    confirmed: list[str] = []

    def judge(headers: Mapping[str, str], head: bytes) -> str:
        try:
            return no_page(headers, head)
        except SourceFailed:
            page = head.lower()
        if b"virus scan warning" in page and not confirmed:
            confirmed.append(address_of(drive_id, host))
            return confirmed[0]
        raise SourceFailed(_meaning(page, head))

    return judge


def _meaning(page: bytes, head: bytes) -> str:
    if b"quota exceeded" in page or b"too many users" in page:
        return (
            "its download quota of the day is used up; try again tomorrow, or open the address in "
            "a browser, make a copy in a drive of your own and bring the file (--mirror)"
        )
    if b"virus scan warning" in page:
        return (
            "its virus-scan page even after confirming; download it in a browser and bring the "
            "file (--mirror)"
        )
    if b"accounts.google.com" in page or b"sign in" in page or b"sign-in" in page:
        return "it asks to sign in, so it is not public any more; ask its authors for the file"
    if b"not found" in page or b"404" in page:
        return "no such file there any more; ask its authors for it"
    title = _TITLE.search(head)
    named = f" titled '{shorten(title[1].decode(errors='replace'), 60)}'" if title else ""
    return f"a web page{named} instead of the file; open the address in a browser"
