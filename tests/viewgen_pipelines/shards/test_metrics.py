"""What a run tells Prometheus, and that the dashboard in docker/ asks for exactly that."""

import json
import re
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from viewgen.store import ShardCommit
from viewgen_pipelines.shards.metrics import METRICS, RunMetrics, ShardMetrics, exported_names

DOCKER = Path(__file__).parents[3] / "docker"


@pytest.fixture
def commit(make_spec):
    return ShardCommit(
        shard_id=0, identity="sha256:00", objects={}, status=[1, 1, 1, 2, 3], failures={4: "bad"}, seconds=4.0
    )


@pytest.mark.filterwarnings("ignore")  # Ray's own code warns
def test_ray_exports_them_under_the_names_that_dashboards_use(shared_ray, make_spec, commit):
    import ray

    spec = make_spec(num_images=5)
    distances = np.array([[0.31, 0.33], [0.28, 0.3], [0.52, 0.5], [0.3, 0.3], [np.nan, np.nan]], np.float32)
    metrics = ShardMetrics("s3://bucket/measured.zarr", spec)
    metrics.record(commit, distances)
    metrics.record(commit, distances)
    run = RunMetrics("s3://bucket/measured.zarr", spec)
    run.left(7)
    run.failed("failed")
    (node,) = ray.nodes()
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    series = {}
    end = time.monotonic() + 60  # Ray reports every second, see the session
    while time.monotonic() < end and not exported_names() <= {name for name, _ in series}:
        time.sleep(0.5)
        text = urllib.request.urlopen(address, timeout=30).read().decode()
        found = re.findall(r'^(ray_viewgen_\w+)\{(.*cache="measured".*)\} (\S+)$', text, re.MULTILINE)
        series = {(name, labels): float(value) for name, labels, value in found}
    assert {name for name, _ in series} == exported_names()

    def value(name, label=""):
        (one,) = [v for (n, labels), v in series.items() if n == f"ray_{name}" and label in labels]
        return one

    assert value("viewgen_views_total") == 2 * 4 * 2
    assert value("viewgen_images_total", 'status="ok"') == 6
    assert value("viewgen_images_total", 'status="not_converged"') == 2
    assert value("viewgen_images_total", 'status="failed"') == 2
    assert value("viewgen_views_per_second") == pytest.approx(8 / 4)
    assert value("viewgen_converged_share") == pytest.approx(0.6)
    assert value("viewgen_mean_distance") == pytest.approx((0.32 + 0.29 + 0.51 + 0.3) / 4, abs=1e-6)
    assert value("viewgen_distance_count") == 8
    assert value("viewgen_distance_bucket", 'le="0.275"') == 0
    assert value("viewgen_distance_bucket", 'le="0.4"') == 6, "all but 0.51, twice; buckets are cumulative"
    assert value("viewgen_shard_seconds_count") == 2
    assert value("viewgen_shard_seconds_bucket", 'le="2.0"') == 0
    assert value("viewgen_shard_seconds_bucket", 'le="5.0"') == 2
    assert value("viewgen_shards_left") == 7
    assert value("viewgen_shard_failures_total", 'outcome="failed"') == 1


def test_a_metric_that_fails_costs_no_shard(shared_ray, make_spec, commit, caplog):
    metrics = ShardMetrics("c.zarr", make_spec())
    metrics.record(commit, None)
    assert "metrics of shard 0" in caplog.text


def dashboard():
    return json.loads((DOCKER / "grafana/dashboards/viewgen.json").read_text())


def expressions():
    panels = [panel for panel in dashboard()["panels"] if panel["type"] != "row"]
    assert panels
    return [target["expr"] for panel in panels for target in panel["targets"]]


def test_the_dashboard_asks_for_metrics_that_exist():
    asked = set(re.findall(r"ray_viewgen_\w+", " ".join(expressions())))
    assert asked <= exported_names()
    for metric in METRICS.values():
        assert any(name.startswith(f"ray_{metric.name}") for name in asked), f"no panel shows {metric.name}"


def test_the_dashboard_filters_by_labels_that_exist():
    labels = {"cache", "method", "le"} | {tag for metric in METRICS.values() for tag in metric.tags}
    for text in expressions():
        used = re.findall(r"(\w+)\s*(?:=~|!=|=|!~)\s*\"", text)
        used += [name for group in re.findall(r"by \(([^)]*)\)", text) for name in group.split(", ")]
        assert set(used) <= labels, text


def test_provisioning_points_to_files_that_exist():
    yaml = pytest.importorskip("yaml")
    compose = yaml.safe_load((DOCKER / "monitoring.yaml").read_text())
    for service in compose["services"].values():
        assert "@sha256:" in service["image"] or re.search(r":v?\d+\.\d+", service["image"]), (
            "a fixed version"
        )
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            if source.startswith("./"):
                assert (DOCKER / source).exists(), source
    prometheus = yaml.safe_load((DOCKER / "prometheus.yaml").read_text())
    (job,) = prometheus["scrape_configs"]
    assert job["file_sd_configs"][0]["files"] == ["/ray/prom_metrics_service_discovery.json"]
    (source,) = yaml.safe_load((DOCKER / "grafana/provisioning/datasources/prometheus.yaml").read_text())[
        "datasources"
    ]
    (provider,) = yaml.safe_load((DOCKER / "grafana/provisioning/dashboards/viewgen.yaml").read_text())[
        "providers"
    ]
    assert f"{provider['options']['path']}:ro" in " ".join(compose["services"]["grafana"]["volumes"])
    for panel in dashboard()["panels"]:
        assert panel.get("datasource", {"uid": source["uid"]})["uid"] == source["uid"]
