"""Files that come in parts (``tus``), or are announced before they are sent (``announced``)."""
