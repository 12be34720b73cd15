"""Draw embedded cells and slides. Each function draws into the axes it is given, or a new figure, and shows nothing.

A name is loaded when it is first used, because Matplotlib takes a second to import.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
