"""The expression language of dataset configurations, bounded in every direction.

``expand`` turns a text such as ``"$sprintf('%06d',$(job))"`` into a value, given a `Scope` that
says what each name means.  What cannot be resolved stays as it was written; what would need more
work, memory or depth than the limits allow is refused with a FormatError.  Nothing is ever
handed to Python's own compiler.

`_rewriting` reads a text and replaces its phrases, `_functions` holds the keywords,
`_arithmetic` and `_formatting` the two of them that are languages of their own.
"""

from iceprod.model.expressions._budget import Budget
from iceprod.model.expressions._engine import expand, is_open
from iceprod.model.expressions._phrases import phrases_in
from iceprod.model.expressions._scope import Scope
from iceprod.model.expressions._typing import literal

__all__ = ["Budget", "Scope", "expand", "is_open", "literal", "phrases_in"]
