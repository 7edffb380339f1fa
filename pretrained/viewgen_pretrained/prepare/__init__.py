"""Everything from images to a cache of their views: data report, plan, trainings with gates, calibration."""

from viewgen_pretrained.prepare.command import Prepared, prepare

__all__ = ["Prepared", "prepare"]
