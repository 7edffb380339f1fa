"""What the manifests may hold: the parts of their public schemas that viewgen uses, nothing unknown.

Compose specification (compose-spec), KubeRay's RayCluster and RayJob (ray.io/v1), Kubernetes' pod template.
"""
# ruff: noqa: N815 the names are those of the files

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

Quantity = Annotated[str, StringConstraints(pattern=r"^\d+(\.\d+)?(m|[KMGT]i?)?$")]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]
Duration = Annotated[str, StringConstraints(pattern=r"^(\d+(h|m|s|ms))+$")]
Bytes = Annotated[str, StringConstraints(pattern=r"^\d+(b|kb|mb|gb)$")]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Healthcheck(Strict):
    test: list[str] | None = None
    interval: Duration | None = None
    timeout: Duration | None = None
    start_period: Duration | None = None
    retries: int | None = None
    disable: bool = False


class DependsOn(Strict):
    condition: Literal["service_started", "service_healthy", "service_completed_successfully"]


class Build(Strict):
    context: str
    dockerfile: str
    args: dict[str, str]


class Service(Strict):
    image: str
    build: Build | None = None
    init: bool | None = None
    hostname: str | None = None
    user: str | None = None
    network_mode: Literal["host"] | None = None
    entrypoint: list[str] | None = None
    command: list[str] | None = None
    environment: dict[str, str] = {}
    security_opt: list[str] = []
    cap_drop: list[str] = []
    shm_size: Bytes | None = None
    volumes: list[str] = []
    ports: list[str] = []
    depends_on: dict[str, DependsOn] = {}
    healthcheck: Healthcheck | None = None
    profiles: list[str] = []
    restart: Literal["no", "always", "on-failure", "unless-stopped"] | None = None


class Compose(Strict):
    name: Name
    services: dict[Name, Service]
    volumes: dict[str, dict[str, Any]] = {}

    @model_validator(mode="before")
    @classmethod
    def without_extensions(cls, document: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in document.items() if not key.startswith("x-")}

    @model_validator(mode="after")
    def names_exist(self) -> "Compose":
        for name, service in self.services.items():
            unknown = service.depends_on.keys() - self.services.keys()
            if unknown:
                raise ValueError(f"{name} depends on {unknown}")
            for volume in service.volumes:
                source = volume.split(":")[0]
                if source[0] not in "./$" and source not in self.volumes:
                    raise ValueError(f"{name} mounts the unknown volume {source}")
        return self


class SecretReference(Strict):
    name: Name


class EnvFrom(Strict):
    secretRef: SecretReference


class Port(Strict):
    name: Name
    containerPort: Annotated[int, Field(ge=1, le=65535)]


class Resources(Strict):
    limits: dict[str, Quantity]
    requests: dict[str, Quantity]


class Capabilities(Strict):
    drop: list[str]


class ContainerSecurity(Strict):
    allowPrivilegeEscalation: bool
    capabilities: Capabilities


class VolumeMount(Strict):
    name: Name
    mountPath: str


class Container(Strict):
    name: Name
    image: str
    envFrom: list[EnvFrom]
    ports: list[Port]
    resources: Resources
    securityContext: ContainerSecurity
    volumeMounts: list[VolumeMount] = []


class SeccompProfile(Strict):
    type: Literal["RuntimeDefault", "Unconfined", "Localhost"]


class PodSecurity(Strict):
    runAsNonRoot: bool
    runAsUser: int
    runAsGroup: int
    fsGroup: int
    seccompProfile: SeccompProfile


class Toleration(Strict):
    key: str
    operator: Literal["Exists", "Equal"]
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"]


class EmptyDir(Strict):
    sizeLimit: Quantity


class Volume(Strict):
    name: Name
    emptyDir: EmptyDir


class PodSpec(Strict):
    securityContext: PodSecurity
    terminationGracePeriodSeconds: int | None = None
    nodeSelector: dict[str, str] = {}
    tolerations: list[Toleration] = []
    containers: Annotated[list[Container], Field(min_length=1)]
    volumes: list[Volume] = []


class PodTemplate(Strict):
    spec: PodSpec


class HeadGroup(Strict):
    serviceType: Literal["ClusterIP", "NodePort", "LoadBalancer"]
    rayStartParams: dict[str, str]
    template: PodTemplate


class WorkerGroup(Strict):
    groupName: Name
    replicas: int
    minReplicas: int
    maxReplicas: int
    rayStartParams: dict[str, str]
    template: PodTemplate


class AuthOptions(Strict):
    mode: Literal["disabled", "token"]


class AutoscalerOptions(Strict):
    idleTimeoutSeconds: int
    upscalingMode: Literal["Default", "Aggressive", "Conservative"]
    resources: Resources


class RayClusterSpec(Strict):
    rayVersion: str
    authOptions: AuthOptions
    enableInTreeAutoscaling: bool
    autoscalerOptions: AutoscalerOptions
    headGroupSpec: HeadGroup
    workerGroupSpecs: list[WorkerGroup]


class Metadata(Strict):
    name: Name


class RayCluster(Strict):
    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayCluster"]
    metadata: Metadata
    spec: RayClusterSpec


class RayJobSpec(Strict):
    entrypoint: str
    backoffLimit: int
    shutdownAfterJobFinishes: bool
    ttlSecondsAfterFinished: int
    rayClusterSpec: RayClusterSpec


class RayJob(Strict):
    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayJob"]
    metadata: Metadata
    spec: RayJobSpec
