"""Ways in which people write the parts of networks: each a module for images of 3x12x10."""

import torch
import torch.nn.functional as F
from torch import nn

SHAPE = (3, 12, 10)


class Do(nn.Module):
    """A forward written as a function of the module and the image; `parts` are its layers and tensors."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            if isinstance(part, torch.Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, x):
        return self.function(self, x)


class OwnSign(torch.autograd.Function):
    """As people write it: a gradient of their own."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.where(x >= 0, 1.0, -1.0)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * (x.abs() <= 1)


class TorchSign(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return torch.sign(x)

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def seeded(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def conv(inputs=3, outputs=4, kernel=3, **settings):
    return nn.Conv2d(inputs, outputs, kernel, **settings)


def patterns():
    yield "depthwise", conv(3, 6, groups=3, padding=1)
    yield "groups", nn.Sequential(conv(3, 6), conv(6, 4, groups=2, stride=(2, 1), padding=(1, 2)))
    yield "dilated, asymmetric", conv(kernel=(3, 2), dilation=(2, 1), stride=(1, 2), padding=(2, 0), bias=False)
    yield "padding same, even kernel", conv(kernel=(4, 2), padding="same")
    yield "padding valid", conv(padding="valid")
    for mode in ("reflect", "replicate", "circular"):
        yield f"padding {mode}", conv(padding=2, padding_mode=mode)
    channels = nn.Conv1d(1, 1, 3, padding=1, bias=False)
    yield (
        "attention of channels",
        Do(lambda m, x: x * m.conv(x.mean((2, 3)).unsqueeze(1)).sigmoid().transpose(1, 2).unsqueeze(-1), conv=channels),
    )
    yield "Conv1d", nn.Sequential(nn.Flatten(2), nn.Conv1d(3, 6, 5, 2, 1, 2, 3), nn.Conv1d(6, 4, 4, padding="same"))
    yield "ConvTranspose2d", nn.ConvTranspose2d(3, 4, 3, 2, 1, output_padding=1)
    yield "ConvTranspose2d groups", nn.ConvTranspose2d(3, 6, (2, 3), (2, 1), (0, 1), groups=3, dilation=(1, 2))
    yield "functional conv", Do(lambda m, x: F.conv2d(x, m.w, stride=2, padding=1), w=seeded(5, 3, 3, 3))
    yield "blur", Do(lambda m, x: F.conv2d(F.pad(x, (1, 2, 1, 2), mode="reflect"), m.w, groups=3), w=seeded(3, 1, 4, 4))
    yield (
        "weights computed",
        Do(lambda m, x: F.conv2d(x, m.w / m.w.abs().amax((1, 2, 3), True)), w=nn.Parameter(seeded(5, 3, 3, 3))),
    )
    yield "Linear on the last axis", nn.Sequential(conv(), nn.Flatten(2), nn.Linear(80, 7))
    yield "matmul", Do(lambda m, x: x.flatten(1) @ m.w + m.b, w=seeded(360, 5), b=seeded(5))
    yield "attention", Do(lambda m, x: _attended(x.flatten(2)).view_as(x) + x)
    yield "mixed rows", Do(lambda m, x: m.w @ x.flatten(2).mT + _likeness(x), w=seeded(5, 120))
    yield "BatchNorm affine=False", nn.BatchNorm2d(3, affine=False)
    yield "BatchNorm1d", nn.Sequential(nn.Flatten(), nn.BatchNorm1d(360))
    yield "BatchNorm1d of three axes", nn.Sequential(nn.Flatten(2), nn.BatchNorm1d(3))
    for name in (
        *("ReLU", "ReLU6", "LeakyReLU", "Hardtanh", "Hardswish", "Hardsigmoid", "Sigmoid", "SiLU", "GELU", "ELU"),
        *("Tanh", "PReLU", "Softplus", "LogSigmoid", "Mish", "SELU", "Softsign", "Softmax2d"),
    ):
        yield name, getattr(nn, name)()
    yield "LayerNorm", nn.LayerNorm([3, 12, 10])
    yield "LayerNorm of rows", nn.Sequential(nn.Flatten(2), nn.LayerNorm(120))
    yield "GroupNorm", nn.Sequential(conv(3, 6), nn.GroupNorm(3, 6))
    yield "GroupNorm of one group", nn.GroupNorm(1, 3)
    yield "InstanceNorm2d", nn.InstanceNorm2d(3, affine=True)
    yield "GLU", nn.Sequential(conv(3, 6), nn.GLU(1))
    yield "normalize", Do(lambda m, x: F.normalize(x.flatten(1)) + F.normalize(x, dim=1).flatten(1))
    yield "GELU tanh", nn.GELU("tanh")
    yield "PReLU per channel", nn.PReLU(3)
    yield "Softplus beta", nn.Softplus(3.0)
    yield "Softmax", nn.Softmax(dim=-1)
    yield "log_softmax at the end", nn.Sequential(nn.Flatten(), nn.Linear(360, 5), nn.LogSoftmax(dim=1))
    yield "F.softmax", Do(lambda m, x: F.softmax(x.flatten(1), 1))
    for name, function in {
        "add channels": lambda m, x: x + m.c,
        "sub from": lambda m, x: m.c - x,
        "scalars": lambda m, x: (2 * x - 1) / 3 + 0.5 - x / 2,
        "division": lambda m, x: 1 / (x.abs() + 1) + m.c / (x**2 + 2),
        "map constant": lambda m, x: x * m.map + m.row,
        "normalised inside": lambda m, x: (x - m.c) / m.c.abs().add(1),
        "in place": lambda m, x: x.mul_(2).add_(m.c).div_(3).clamp_(-1, 1),
        "in place operators": lambda m, x: _in_place(m, x),
        "alpha": lambda m, x: torch.add(x, x.relu(), alpha=3) - torch.sub(m.c, x, alpha=2),
        "maximum": lambda m, x: torch.maximum(x, -x * 0.5) + torch.minimum(x, m.c),
        "clamp": lambda m, x: x.clamp(min=-0.3) + x.clamp(max=0.2) + torch.clamp(x, -0.1, 0.6) + x.clamp(0, 6),
        "clamp_min": lambda m, x: x.clamp_min(0.1) * torch.clamp_max(x, 0.3),
        "powers": lambda m, x: x**2 + x.pow(3) + x.abs().pow(0.5) + torch.square(x) + x.abs().add(1).rsqrt(),
        "exp and log": lambda m, x: torch.log(torch.exp(x) + 1) - x.exp().sqrt() + x.neg() + x.reciprocal() * 0.1,
        "where": lambda m, x: torch.where(x > 0.1, x, 0.1 * x) + torch.where(x <= m.c, 1.0, -2.0),
        "comparisons": lambda m, x: (x > 0).float() * 2 - (x.le(0.5)).to(x.dtype) + (x < 0.2).type_as(x) * x,
        "a gate": lambda m, x: x * torch.sigmoid(x.mean((2, 3), keepdim=True)),
        "a gate expanded": lambda m, x: x * x.mean((2, 3)).view(x.size(0), -1, 1, 1).expand_as(x),
        "reductions": lambda m, x: x.sum(1, keepdim=True) + x.amax(dim=(2, 3), keepdim=True) - x.mean(-1, keepdim=True),
        "max with indices": lambda m, x: x.max(dim=1)[0] + x.max(1, keepdim=True).values.squeeze(1),
        "minima": lambda m, x: x.amin((2, 3)) + x.min(dim=2)[0].amin(-1) + torch.min(x, m.c).amax((2, 3)),
        "expanded constants": lambda m, x: x + m.c.expand_as(x) * m.row.expand(x.size()),
        "quantised": lambda m, x: torch.round(x.clamp(0, 1) * 3) / 3 + x.floor() - torch.ceil(x * 0.5),
        "mean of rows": lambda m, x: x.mean(2).mean(2),
        "cat": lambda m, x: torch.cat([x, x * 2, m.big.expand(x.size(0), -1, -1, -1)], 1),
        "cat rows": lambda m, x: torch.cat((x, x.relu()), dim=2),
        "stack": lambda m, x: torch.stack([x, x.relu()], 1).flatten(1, 2),
        "split": lambda m, x: (
            sum(part * i for i, part in enumerate(x.split([2, 4, 6], 2)[::2]) if i == 0) + x[:, :, :2]
        ),
        "chunk": lambda m, x: torch.mul(*x.chunk(2, dim=3)),
        "unbind": lambda m, x: x.unbind(1)[0] + x.unbind(1)[2],
        "channels": lambda m, x: x[:, :2] - x[:, 1:] + x[:, [0, 2]] + x[:, 0:1],
        "one channel": lambda m, x: x[:, 1] + x[:, -1],
        "every other pixel": lambda m, x: x[:, :, ::2, 1::3] + x[..., ::2, 1::3],
        "new axis": lambda m, x: x[:, None].squeeze(1) + x.unsqueeze(-1)[..., 0],
        "narrow and select": lambda m, x: x.narrow(2, 1, 4).select(1, 2) + x.index_select(2, m.index)[:, 0, :4],
        "flip and roll": lambda m, x: x.flip(-1) + x.flip([2, 3]) + torch.roll(x, (1, 2), (2, 3)),
        "shuffle": lambda m, x: _shuffled(torch.cat([x, x * 2], 1), 3),
        "permute and back": lambda m, x: x.permute(0, 2, 3, 1).mul(2).permute(0, 3, 1, 2),
        "permute": lambda m, x: x.permute(0, 2, 3, 1).reshape(x.size(0), -1),
        "transpose": lambda m, x: x.transpose(2, 3) + x.mT,
        "movedim": lambda m, x: x.movedim(1, -1),
        "view": lambda m, x: x.view(-1, 360)[:, 5:],
        "view of sizes": lambda m, x: x.view(x.size(0), x.shape[1], -1).mean(2),
        "reshape to maps": lambda m, x: x.reshape(x.shape[0], 6, 6, 10) * 2,
        "flatten two axes": lambda m, x: torch.flatten(x, 1, 2),
        "repeat": lambda m, x: x.mean((2, 3), keepdim=True).repeat(1, 2, 3, 4),
        "option A": lambda m, x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 3)),
        "crop and pad": lambda m, x: F.pad(F.pad(x, (-1, 2, 0, -3)), (1, 1, 1, 1), value=0.5),
        "nearest": lambda m, x: F.interpolate(x, scale_factor=2) + F.interpolate(x, (24, 20), mode="nearest"),
        "nearest smaller": lambda m, x: F.interpolate(x, (5, 7)),
        "bilinear": lambda m, x: F.interpolate(x, (9, 21), mode="bilinear", align_corners=False),
        "corners": lambda m, x: F.interpolate(x, (9, 21), mode="bilinear", align_corners=True),
        "pool functions": lambda m, x: F.max_pool2d(x, 3, 2, 1) + F.avg_pool2d(x, (3, 3), stride=2, padding=1),
        "adaptive functions": lambda m, x: F.adaptive_avg_pool2d(x, (6, 5)) + F.adaptive_max_pool2d(x, 1),
        "detached sign": lambda m, x: x + (torch.where(x >= 0, 1.0, -1.0) - x).detach(),
        "own sign": lambda m, x: OwnSign.apply(x) + TorchSign.apply(x),
        "torch.sign": lambda m, x: torch.sign(x) * 2,
        "dropout": lambda m, x: F.dropout(F.dropout2d(x, 0.5, m.training), 0.2, training=m.training) * 2,
        "checks": lambda m, x: _checked(x),
    }.items():
        yield (
            name,
            Do(
                function,
                c=seeded(1, 3, 1, 1),
                map=seeded(1, 1, 12, 10),
                row=seeded(10),
                big=seeded(1, 2, 12, 10),
                index=torch.tensor([3, 1, 0, 5, 5]),
            ),
        )
    yield "ceil", nn.Sequential(nn.MaxPool2d(3, 2, ceil_mode=True), nn.AvgPool2d(2, 2, ceil_mode=True))
    yield (
        "ceil with padding",
        nn.Sequential(nn.AvgPool2d(3, 2, 1, ceil_mode=True), nn.MaxPool2d((3, 2), 2, 1, ceil_mode=True)),
    )
    yield "count_include_pad=False", nn.AvgPool2d(3, 2, 1, count_include_pad=False)
    yield "divisor_override", nn.AvgPool2d(2, divisor_override=3)
    yield "adaptive, uneven", nn.AdaptiveAvgPool2d((5, 3))
    yield "adaptive of one side", nn.AdaptiveAvgPool2d((None, 1))
    yield "adaptive max, uneven", nn.AdaptiveMaxPool2d((7, 4))
    yield "pads", nn.Sequential(nn.ZeroPad2d((1, 0, 2, 3)), nn.ConstantPad2d(1, 0.5), nn.ReflectionPad2d(2))
    yield "pads of edges", nn.Sequential(nn.ReplicationPad2d((1, 2, 0, 1)), nn.CircularPad2d(1))
    yield "PixelShuffle", nn.Sequential(conv(3, 8), nn.PixelShuffle(2))
    yield "PixelUnshuffle", nn.PixelUnshuffle(2)
    yield "ChannelShuffle", nn.Sequential(conv(3, 6), nn.ChannelShuffle(2))
    yield "Upsample", nn.Upsample(scale_factor=2, mode="bilinear")
    yield "UpsamplingNearest2d", nn.UpsamplingNearest2d(scale_factor=3)
    yield "Unflatten", nn.Sequential(nn.Flatten(), nn.Unflatten(1, (6, 6, 10)))
    yield "identity", nn.Sequential(nn.Identity(), nn.Dropout(), conv(), nn.Dropout2d())
    shared = nn.Conv2d(3, 3, 3, padding=1)
    yield "shared modules", Do(lambda m, x: m.a(m.a(x)) + m.b(x), a=shared, b=shared)


def _likeness(x):
    return torch.bmm(x[:, 0], x[:, 1].mT).mean((1, 2), keepdim=True)


def _attended(x):
    """Each channel a mixture of all, by how alike they are."""
    return torch.softmax(x @ x.transpose(1, 2) / 10, dim=-1) @ x


def _in_place(m, x):
    y = x * 1
    y += m.c
    y *= 2
    y -= x
    z = y
    z.relu_()
    return y


def _shuffled(x, groups):
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).contiguous().view(n, -1, h, w)


def _checked(x):
    assert x.dim() == 4
    torch._assert(x.shape[1] == 3, "three channels")
    return x * 2


PATTERNS = dict(patterns())
