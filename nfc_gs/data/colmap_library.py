"""pycolmap, imported so that the program keeps its signals: glog in it sets a handler of its own for SIGTERM."""

from nfc_gs.core.signals import signals_kept

with signals_kept():
    import pycolmap

__all__ = ["pycolmap"]
