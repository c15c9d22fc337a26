"""mooncake topology: this host, and hosts made up of a sysfs folder and of nodes and PCI devices as hwloc exports them."""

import json
import os
import subprocess
import tempfile
import unittest

from support import PROGRAM, run

NOTHING = "No RDMA device on this host"

HOST = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE topology SYSTEM "hwloc2.dtd">
<topology version="2.0">
 <object type="Machine" os_index="0" cpuset="0x3" complete_cpuset="0x3" allowed_cpuset="0x3" nodeset="0x3" complete_nodeset="0x3" allowed_nodeset="0x3" gp_index="1">
  <object type="Package" os_index="0" cpuset="0x1" complete_cpuset="0x1" nodeset="0x1" complete_nodeset="0x1" gp_index="2">
   <object type="NUMANode" os_index="0" cpuset="0x1" complete_cpuset="0x1" nodeset="0x1" complete_nodeset="0x1" gp_index="3" local_memory="1073741824"/>
   <object type="PU" os_index="0" cpuset="0x1" complete_cpuset="0x1" nodeset="0x1" complete_nodeset="0x1" gp_index="4"/>
  </object>
  <object type="Package" os_index="1" cpuset="0x2" complete_cpuset="0x2" nodeset="0x2" complete_nodeset="0x2" gp_index="5">
   <object type="NUMANode" os_index="1" cpuset="0x2" complete_cpuset="0x2" nodeset="0x2" complete_nodeset="0x2" gp_index="6" local_memory="1073741824"/>
   <object type="PU" os_index="1" cpuset="0x2" complete_cpuset="0x2" nodeset="0x2" complete_nodeset="0x2" gp_index="7"/>
   <object type="Bridge" gp_index="8" bridge_type="0-1" depth="0" bridge_pci="0000:[80-8f]">
    <object type="PCIDev" gp_index="9" pci_busid="0000:83:00.0" pci_type="0302 [10de:2330] [0000:0000] a1" pci_link_speed="0.000000"/>
   </object>
  </object>
 </object>
</topology>
"""


class Topology(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.sys = folder.name
        self.write("host.xml", HOST)

    def write(self, name, text):
        path = os.path.join(self.sys, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)

    def add_device(self, name, numa_node, state):
        folder = f"class/infiniband/{name}"
        self.write(f"{folder}/node_type", "1: CA\n")
        self.write(f"{folder}/device/numa_node", f"{numa_node}\n")
        for file, text in (("state", state), ("link_layer", "InfiniBand"), ("rate", "400 Gb/sec (4X NDR)"), ("gids/0", "fe80:" + "0:" * 6 + "1")):
            self.write(f"{folder}/ports/1/{file}", text + "\n")

    def topology(self, *flags):
        return subprocess.run([PROGRAM, "topology", "--sys", self.sys, *flags], capture_output=True, text=True, timeout=20, check=False,
                              env={**os.environ, "HWLOC_XMLFILE": os.path.join(self.sys, "host.xml")})

    def test_this_host(self):
        shown, as_json = run("topology"), run("topology", "--json")
        self.assertEqual((shown.returncode, as_json.returncode), (0, 0), shown.stderr)
        told = json.loads(as_json.stdout)
        self.assertEqual(len(as_json.stdout.splitlines()), 1)
        self.assertGreater(told["nodes"][0]["memory_bytes"], 0)
        self.assertIn(told["nodes"][0]["location"], shown.stdout)
        self.assertEqual(NOTHING in shown.stdout, not told["rdma_devices"])

    def test_each_device_is_used_or_has_a_reason(self):
        self.add_device("mlx5_0", 0, "4: ACTIVE")
        self.add_device("mlx5_1", 1, "1: DOWN")
        shown = self.topology()
        self.assertEqual((shown.returncode, shown.stderr), (0, ""))
        lines = {line.split()[0]: line for line in shown.stdout.splitlines() if line}
        self.assertRegex(lines["mlx5_0"], r" 0 +1 +ACTIVE +InfiniBand +400 +1 +used$")
        self.assertRegex(lines["mlx5_1"], r" 1 +1 +DOWN .* not used: port 1 is DOWN$")
        self.assertRegex(lines["cuda:0"], r" 0000:83:00\.0 +1 +10de:2330 +mlx5_0$")  # the nearer one is not used
        self.assertRegex(lines["cpu:1"], r" mlx5_0$")

    def test_json_says_the_same(self):
        self.add_device("mlx5_0", 0, "4: ACTIVE")
        self.add_device("mlx5_1", 1, "4: ACTIVE")
        told = json.loads(self.topology("--json", "--device-name", "^mlx5_0").stdout)
        self.assertEqual([(one["name"], one["used"], one["reason"]) for one in told["rdma_devices"]],
                         [("mlx5_0", False, "excluded by device_name"), ("mlx5_1", True, "")])
        self.assertEqual([(one["location"], one["nearest"]) for one in told["nodes"] + told["gpus"]],
                         [("cpu:0", ["mlx5_1"]), ("cpu:1", ["mlx5_1"]), ("cuda:0", ["mlx5_1"])])
        port, = told["rdma_devices"][1]["ports"]
        self.assertEqual((port["gigabits_per_second"], len(port["gids"])), (400, 1))

    def test_a_named_device_that_cannot_be_used_is_an_error(self):
        self.add_device("mlx5_0", 0, "4: ACTIVE")
        self.add_device("mlx5_1", 1, "1: DOWN")
        for name, reason in (("mlx5_1", "port 1 is DOWN"), ("mlx5_7", "there is no such RDMA device"), ("bnxt_*", "no RDMA device has such a name")):
            done = self.topology("--device-name", name)
            self.assertEqual((done.returncode, done.stdout, len(done.stderr.splitlines())), (1, "", 1))
            self.assertIn(f'E207 a named RDMA device cannot be used: device_name "{name}": {reason}; mlx5_0 can be used. Do: ', done.stderr)

    def test_no_device_is_no_failure(self):
        for flags in ((), ("--device-name", "mlx5_0")):
            shown = self.topology(*flags)
            self.assertEqual((shown.returncode, shown.stderr), (0, ""))
            self.assertIn(NOTHING, shown.stdout)
        self.add_device("mlx5_0", 0, "1: DOWN")
        shown = self.topology()
        self.assertEqual(shown.returncode, 0)
        self.assertIn("not used: port 1 is DOWN", shown.stdout)

    def test_wrong_flags(self):
        self.assertEqual(self.topology("word").returncode, 2)
        self.assertIn("E001", self.topology("--device-nam", "x").stderr)


if __name__ == "__main__":
    unittest.main()
