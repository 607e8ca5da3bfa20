"""Operators of networks: resampling of images by filters, and activations between filters, as StyleGAN has them."""

from .filtered_lrelu import filtered_lrelu
from .upfirdn2d import downsample2d, filter2d, setup_filter, upfirdn2d, upsample2d

__all__ = ["downsample2d", "filter2d", "filtered_lrelu", "setup_filter", "upfirdn2d", "upsample2d"]
