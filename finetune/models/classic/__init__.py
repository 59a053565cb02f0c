"""The small nets of earlier days, registered with timm by importing this package.

===========================  ==========================================================
``mini_alexnet``             AlexNet's layout in 3x3 kernels for 32x32 images
``alexnet``                  torchvision's, whose pretrained weights it loads
``cifar10_tutorial_cnn``     the CIFAR-10 net of the TensorFlow tutorials
``simple_cnn``               convolution, pooling, activation; as many times as wanted
``vgg19_mnist``              VGG-19 for images as small as 28x28
``mnist_experts_cnn``        the two-layer net of "Deep MNIST for experts"
``cifar_resnet``             the deep residual nets for CIFAR, by depth (20 ... 1202)
``resnet18_small`` ... 152   timm's ResNets with a stem for small images
===========================  ==========================================================

Each takes `in_chans`, `num_classes`, `drop_rate` and `img_size` as timm's own models do.

Example:
    >>> import timm, torch
    >>> net = timm.create_model("mnist_experts_cnn", num_classes=10, in_chans=1)
    >>> tuple(net(torch.zeros(2, 1, 28, 28)).shape)
    (2, 10)
"""

from finetune.models.classic import (
    alexnet,
    cifar10_tutorial,
    cifar_resnet,
    mini_alexnet,
    mnist_experts,
    simple_cnn,
    small_stem,
    vgg19_mnist,
)

__all__ = [
    "alexnet",
    "cifar10_tutorial",
    "cifar_resnet",
    "mini_alexnet",
    "mnist_experts",
    "simple_cnn",
    "small_stem",
    "vgg19_mnist",
]
