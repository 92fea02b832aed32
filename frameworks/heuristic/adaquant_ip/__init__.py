"""AdaQuant with integer programming (Hubara et al., arXiv 2006.10518)."""

from frameworks.heuristic.adaquant_ip.framework import AdaQuantIP

__all__ = ["AdaQuantIP"]
