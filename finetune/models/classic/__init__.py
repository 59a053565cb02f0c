"""Small and historic networks, registered with timm by importing this package.

===========================  ==========================================================
``mini_alexnet``             AlexNet's layout in 3x3 kernels for 32x32 images
``alexnet``                  torchvision's AlexNet, which loads its pretrained weights
``vgg19_mnist``              VGG-19 for images as small as 28x28
``simple_cnn``               any number of convolution, pooling and activation blocks
``mnist_experts_cnn``        the two-layer network of "Deep MNIST for experts"
``cifar10_tutorial_cnn``     the CIFAR-10 network of the TensorFlow tutorials
``cifar_resnet``             the deep residual networks for CIFAR, by depth (20 ... 1202)
``resnet18_small`` ... 152   timm's ResNets with a stem for small images
===========================  ==========================================================

Each takes `in_chans`, `num_classes`, `drop_rate` and `img_size` as timm's own models do.

Example:
    >>> import timm, torch
    >>> net = timm.create_model("mnist_experts_cnn", num_classes=10, in_chans=1)
    >>> tuple(net(torch.zeros(2, 1, 28, 28)).shape)
    (2, 10)
"""

from finetune.models.classic import imagenet, small_resnets, tutorials

__all__ = ["imagenet", "small_resnets", "tutorials"]
