"""Before any test imports auto_LiRPA: an old one needs what lirpa_explain supplies."""

import lirpa_explain  # noqa: F401
