#!/usr/bin/env python3
"""What no schema knows: whether the parts of a deployment fit each other. fits.py MANIFESTS CONFIGURATION: writes the
ConfigMap's bidiway.yaml to CONFIGURATION."""

import re
import sys

import yaml

UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}


def seconds(text):
    return sum(float(number) * UNITS[unit] for number, unit in re.findall(r"([0-9.]+)(ms|s|m|h)", text))


def main(manifests, configuration):
    with open(manifests) as file:
        objects = [each for each in yaml.safe_load_all(file) if each]
    wrong = []

    def kind(name):
        return [each for each in objects if each["kind"] == name]

    def expect(holds, sentence):
        if not holds:
            wrong.append(sentence)

    (config_map,) = kind("ConfigMap")
    text = config_map["data"]["bidiway.yaml"]
    with open(configuration, "w") as file:
        file.write(text)
    config = yaml.safe_load(text)

    (deployment,) = kind("Deployment")
    template = deployment["spec"]["template"]
    labels, pod = template["metadata"]["labels"], template["spec"]
    (container,) = pod["containers"]

    def selects(selector, what):
        expect(selector, f"{what} selects everything")
        expect(selector.items() <= labels.items(), f"{what} does not select the pods: {selector}")

    selects(deployment["spec"]["selector"]["matchLabels"], "the Deployment")
    for service in kind("Service"):
        selects(service["spec"]["selector"], service["metadata"]["name"])
    for each in kind("PodDisruptionBudget"):
        selects(each["spec"]["selector"]["matchLabels"], "the PodDisruptionBudget")
    for each in kind("NetworkPolicy"):
        selects(each["spec"]["podSelector"]["matchLabels"], "the NetworkPolicy")
    for each in kind("HorizontalPodAutoscaler"):
        expect(each["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"], "the autoscaler scales another Deployment")
        expect("replicas" not in deployment["spec"], "the Deployment and the autoscaler both say how many replicas there are")

    # Every port by its name, and those of the configuration among them.
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    said = [config["admin"]["address"], *(each["address"] for each in config["listeners"])]
    peers = config.get("session", {}).get("peers")
    said += [peers["listen"]] if peers else []
    expect(sorted(int(each.rpartition(":")[2]) for each in said) == sorted(ports.values()), f"ports: {said}, but {ports}")
    for service in kind("Service"):
        for port in service["spec"]["ports"]:
            expect(port["targetPort"] in ports, f"{service['metadata']['name']}: no port is called {port['targetPort']}")
    for probe in ("readinessProbe", "livenessProbe"):
        expect(ports[container[probe]["httpGet"]["port"]] == ports["admin"], f"{probe} does not ask the admin port")
    for policy in kind("NetworkPolicy"):
        for rule in policy["spec"]["ingress"]:
            for port in rule.get("ports", []):
                expect(port["port"] in ports, f"the NetworkPolicy lets pass to {port['port']}, which is no port")

    # The drain.
    drain = config["drain"]
    grace, timeout = seconds(drain["grace"]), seconds(drain["timeout"])
    expect(pod["terminationGracePeriodSeconds"] >= timeout + 3, "Kubernetes kills before the drain is over")
    probe = container["readinessProbe"]
    expect(probe["periodSeconds"] * probe["failureThreshold"] < grace, "the grace is over before the pod counts as not ready")
    expect(container["livenessProbe"]["httpGet"]["path"] == "/healthz", "the liveness probe would kill instances that drain")

    # Other instances.
    if peers:
        names = {service["metadata"]["name"]: service["spec"] for service in kind("Service")}
        host = peers["addresses"][0].rpartition(":")[0]
        expect(host in names, f"session.peers asks for {host}, which is no Service")
        expect(names.get(host, {}).get("clusterIP") == "None", f"{host} is not headless")
        expect(names.get(host, {}).get("publishNotReadyAddresses"), f"{host} hides instances that drain")

    # Every file that the configuration names is mounted.
    mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
    for path in re.findall(r"/etc/[\w./-]+", text):
        expect(any(path.startswith(mount + "/") for mount in mounts), f"{path} is not mounted")
    volumes = {volume["name"] for volume in pod["volumes"]}
    for mount in container["volumeMounts"]:
        expect(mount["name"] in volumes, f"there is no volume {mount['name']}")
        expect("subPath" not in mount, f"{mount['mountPath']} would not follow a change")
    expect(config_map["metadata"]["name"] in [volume.get("configMap", {}).get("name") for volume in pod["volumes"]], "the ConfigMap is not mounted")

    # The rights.
    security, own = pod["securityContext"], container["securityContext"]
    expect(security.get("runAsNonRoot") and security.get("runAsUser", 0) > 0, "it may run as root")
    expect(security.get("seccompProfile", {}).get("type") == "RuntimeDefault", "no seccomp profile")
    expect(own.get("readOnlyRootFilesystem") and own.get("allowPrivilegeEscalation") is False, "the container may write or gain rights")
    expect(own.get("capabilities") == {"drop": ["ALL"]}, "the container has capabilities")
    expect(pod.get("automountServiceAccountToken") is False, "it has a token of the API server")
    expect("memory" in container["resources"]["limits"], "no limit on memory")

    for sentence in wrong:
        print(sentence)
    return len(wrong) > 0


sys.exit(main(*sys.argv[1:]))
