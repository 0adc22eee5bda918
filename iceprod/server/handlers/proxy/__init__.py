"""Files of origins over HTTP: `proxy` for GET, `download` for the JSON form of IceProd 2.3."""
