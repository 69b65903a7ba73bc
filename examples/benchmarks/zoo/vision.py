"""Models of images: torchvision's, timm's, transformers' ViT, and a U-Net."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .row import Made, Row, image, library, settled

CLASSES = 5


def _torchvision(make: Callable[[Any], nn.Module], size: int = 32) -> Callable[[], Made]:
    return lambda: Made(settled(make(library("torchvision").models)), image(size))


def _densenet(models: Any) -> nn.Module:
    return models.DenseNet(4, (2, 2, 2), 8, num_classes=CLASSES)


def _convnext(models: Any) -> nn.Module:
    setting = library("torchvision.models.convnext").CNBlockConfig
    return models.ConvNeXt([setting(8, 16, 1), setting(16, None, 1)], layer_scale=0.5,
                           num_classes=CLASSES)


def _efficientnet(models: Any) -> nn.Module:
    setting = library("torchvision.models.efficientnet").MBConvConfig
    return models.EfficientNet([setting(1, 3, 1, 8, 8, 1), setting(4, 3, 2, 8, 12, 1),
                                setting(4, 5, 2, 12, 16, 1)],
                               0.2, last_channel=32, num_classes=CLASSES)


def _mobilenet(models: Any) -> nn.Module:
    setting = partial(library("torchvision.models.mobilenetv3").InvertedResidualConfig, dilation=1,
                      width_mult=1.0)
    return models.MobileNetV3([setting(8, 3, 8, 8, True, "RE", 2),
                               setting(8, 3, 24, 12, False, "RE", 2),
                               setting(12, 5, 24, 16, True, "HS", 1)], 32, num_classes=CLASSES)


def _swin(models: Any) -> nn.Module:
    return models.SwinTransformer([4, 4], 8, [2, 2], [2, 2], [2, 2], num_classes=CLASSES)


def _vit(models: Any) -> nn.Module:
    return models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=CLASSES)


def _timm(name: str, size: int) -> Callable[[], Made]:
    return lambda: Made(
        settled(library("timm").create_model(name, num_classes=CLASSES, img_size=size)
                if "vit" in name or "mixer" in name
                else library("timm").create_model(name, num_classes=CLASSES)), image(size))


def _timm_mixer() -> Made:
    mixer = library("timm.models.mlp_mixer").MlpMixer
    return Made(settled(mixer(CLASSES, 32, patch_size=8, num_blocks=2, embed_dim=16)), image())


def _transformers_vit() -> Made:
    hub = library("transformers")
    model = hub.ViTForImageClassification(hub.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        image_size=32, patch_size=8, num_labels=CLASSES))
    model = settled(model)
    return Made(lambda x: model(x).logits, image())


class UNet(nn.Module):
    """Two levels down, two up, with the skips concatenated."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.down = nn.ModuleList([_double(1, channels), _double(channels, 2 * channels)])
        self.bottom = _double(2 * channels, 4 * channels)
        self.up = nn.ModuleList([nn.ConvTranspose2d(4 * channels, 2 * channels, 2, 2),
                                 nn.ConvTranspose2d(2 * channels, channels, 2, 2)])
        self.after = nn.ModuleList([_double(4 * channels, 2 * channels),
                                    _double(2 * channels, channels)])
        self.head = nn.Conv2d(channels, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 2, H, W)."""
        skips = []
        for down in self.down:
            x = down(x)
            skips.append(x)
            x = nn.functional.max_pool2d(x, 2)
        x = self.bottom(x)
        for up, after in zip(self.up, self.after, strict=True):
            x = after(torch.cat([skips.pop(), up(x)], 1))
        return self.head(x)


def _double(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(inplace=True),
        nn.Conv2d(after, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(inplace=True))


def _unet() -> Made:
    model = settled(UNet())
    return Made(lambda x: model(x).sum((2, 3)), image(16, 1))


FULL, SMALL, SMALLER = ("32x32 pixels", "layers, widths, 32x32 pixels",
                        "layers, widths, 16x16 pixels")

VISION = {
    "torchvision resnet18": Row(_torchvision(lambda m: m.resnet18(num_classes=CLASSES)),
                                "torchvision", FULL, eps=1e-5),
    "torchvision vgg11_bn": Row(_torchvision(lambda m: m.vgg11_bn(num_classes=CLASSES)),
                                "torchvision", FULL, method="CROWN-IBP", eps=1e-5),
    "torchvision mobilenet_v3_small": Row(_torchvision(_mobilenet), "torchvision", SMALL),
    "torchvision efficientnet_b0": Row(_torchvision(_efficientnet, 16), "torchvision", SMALLER),
    "torchvision densenet121": Row(_torchvision(_densenet), "torchvision", SMALL),
    "torchvision convnext_tiny": Row(_torchvision(_convnext), "torchvision", SMALL),
    "torchvision shufflenet_v2": Row(_torchvision(lambda m: m.ShuffleNetV2(
        [2, 2, 1], [8, 16, 16, 32, 32], num_classes=CLASSES)), "torchvision", SMALL),
    "torchvision swin_t": Row(_torchvision(_swin, 16), "torchvision", SMALLER),
    "torchvision vit_b_16": Row(_torchvision(_vit), "torchvision", SMALL),
    "timm test_resnet": Row(_timm("test_resnet", 32), "timm", FULL, eps=1e-4),
    "timm test_vit": Row(_timm("test_vit", 32), "timm", FULL, eps=1e-4),
    "timm MlpMixer": Row(_timm_mixer, "timm", SMALL),
    "timm test_convnext": Row(_timm("test_convnext", 32), "timm", FULL, eps=1e-4),
    "transformers ViT": Row(_transformers_vit, "transformers", SMALL),
    "U-Net, logits summed": Row(_unet),
}
