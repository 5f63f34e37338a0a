"""pycolmap, imported so that the program keeps its signals: glog in it sets a handler of its own for SIGTERM."""

from nfc_gs.core.signals import signals_held

with signals_held():
    import pycolmap

__all__ = ["pycolmap"]
