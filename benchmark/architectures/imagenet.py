"""Networks for ImageNet, in torchvision's layout."""

from torch import nn

from benchmark.architectures.base import Shape


def resnet50(shape: Shape, classes: int) -> nn.Module:
    """Returns torchvision's ResNet-50 without weights; keys conv1, bn1, layer1 to layer4 and fc.

    Args:
        shape: (3, H, W) with H and W multiples of 32.
        classes: number of logits.

    Source: He et al., CVPR 2016, arXiv 1512.03385; torchvision.models.resnet50.
    """
    # Imported here: it takes a second that the small networks need not wait for.
    from torchvision.models import resnet50 as torchvision_resnet50

    del shape  # The stem is made for three channels and the pooling is global.
    body: nn.Module = torchvision_resnet50(weights=None, num_classes=classes)
    for module in body.modules():
        if isinstance(module, nn.ReLU):
            # Bound engines trace the graph and need each intermediate value to stay.
            module.inplace = False
    return body
