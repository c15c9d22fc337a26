// A made-up host for tests: a sysfs in a folder of its own, and nodes and PCI as hwloc would export
// them.
#pragma once

#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <string>

namespace mooncake {

/// Removed with the object.
class TestSysfs {
 public:
  TestSysfs() {
    std::string path = (std::filesystem::temp_directory_path() / "mooncake-sysfs-XXXXXX").string();
    root_ = ::mkdtemp(path.data());
  }
  ~TestSysfs() { std::filesystem::remove_all(root_); }
  TestSysfs(const TestSysfs&) = delete;
  TestSysfs& operator=(const TestSysfs&) = delete;

  [[nodiscard]] const std::filesystem::path& root() const noexcept { return root_; }
  void Write(const std::string& name, const std::string& text) const {
    std::filesystem::create_directories((root_ / name).parent_path());
    std::ofstream(root_ / name) << text;
  }
  /// `folder`/device leads to a PCI device with this numa_node.
  void AttachToPci(const std::string& folder, const std::string& pci, int numa_node) const {
    const std::string device = "devices/pci0000:00/0000:00:01.0/" + pci;
    Write(device + "/numa_node", std::to_string(numa_node) + "\n");
    std::filesystem::create_directories(root_ / folder);
    std::filesystem::create_directory_symlink(root_ / device, root_ / folder / "device");
  }

 private:
  std::filesystem::path root_;
};

/// Two NUMA nodes of 1 and 2 GiB, and one of mere memory beside node 1. On node 0, behind one
/// switch: an NVIDIA GPU (0000:04:00.0) and a NIC (0000:05:00.0); a NIC beside the switch
/// (0000:06:00.0). On node 1: an AMD GPU (0000:82:00.0), an NVIDIA GPU (0000:83:00.0), a NIC
/// (0000:84:00.0), each below its own port; a display controller of the board (0000:85:00.0).
inline constexpr const char* kTwoNodesXml = R"(<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE topology SYSTEM "hwloc2.dtd">
<topology version="2.0">
 <object type="Machine" os_index="0" cpuset="0x0000000f" complete_cpuset="0x0000000f" allowed_cpuset="0x0000000f" nodeset="0x00000007" complete_nodeset="0x00000007" allowed_nodeset="0x00000007" gp_index="1">
  <object type="Package" os_index="0" cpuset="0x00000003" complete_cpuset="0x00000003" nodeset="0x00000001" complete_nodeset="0x00000001" gp_index="2">
   <object type="NUMANode" os_index="0" cpuset="0x00000003" complete_cpuset="0x00000003" nodeset="0x00000001" complete_nodeset="0x00000001" gp_index="3" local_memory="1073741824"/>
   <object type="PU" os_index="0" cpuset="0x00000001" complete_cpuset="0x00000001" nodeset="0x00000001" complete_nodeset="0x00000001" gp_index="4"/>
   <object type="PU" os_index="1" cpuset="0x00000002" complete_cpuset="0x00000002" nodeset="0x00000001" complete_nodeset="0x00000001" gp_index="5"/>
   <object type="Bridge" gp_index="10" bridge_type="0-1" depth="0" bridge_pci="0000:[00-1f]">
    <object type="Bridge" gp_index="11" bridge_type="1-1" depth="1" bridge_pci="0000:[01-05]" pci_busid="0000:00:01.0" pci_type="0604 [8086:0001] [0000:0000] 00" pci_link_speed="0.000000">
     <object type="Bridge" gp_index="12" bridge_type="1-1" depth="2" bridge_pci="0000:[02-05]" pci_busid="0000:01:00.0" pci_type="0604 [1000:0001] [0000:0000] 00" pci_link_speed="0.000000">
      <object type="Bridge" gp_index="13" bridge_type="1-1" depth="3" bridge_pci="0000:[04-04]" pci_busid="0000:02:00.0" pci_type="0604 [1000:0001] [0000:0000] 00" pci_link_speed="0.000000">
       <object type="PCIDev" gp_index="14" pci_busid="0000:04:00.0" pci_type="0302 [10de:2330] [0000:0000] a1" pci_link_speed="0.000000"/>
      </object>
      <object type="Bridge" gp_index="15" bridge_type="1-1" depth="3" bridge_pci="0000:[05-05]" pci_busid="0000:02:01.0" pci_type="0604 [1000:0001] [0000:0000] 00" pci_link_speed="0.000000">
       <object type="PCIDev" gp_index="16" pci_busid="0000:05:00.0" pci_type="0207 [15b3:1021] [0000:0000] 00" pci_link_speed="0.000000"/>
      </object>
     </object>
    </object>
    <object type="Bridge" gp_index="17" bridge_type="1-1" depth="1" bridge_pci="0000:[06-06]" pci_busid="0000:00:02.0" pci_type="0604 [8086:0001] [0000:0000] 00" pci_link_speed="0.000000">
     <object type="PCIDev" gp_index="18" pci_busid="0000:06:00.0" pci_type="0200 [15b3:1017] [0000:0000] 00" pci_link_speed="0.000000"/>
    </object>
   </object>
  </object>
  <object type="Package" os_index="1" cpuset="0x0000000c" complete_cpuset="0x0000000c" nodeset="0x00000006" complete_nodeset="0x00000006" gp_index="20">
   <object type="NUMANode" os_index="1" cpuset="0x0000000c" complete_cpuset="0x0000000c" nodeset="0x00000002" complete_nodeset="0x00000002" gp_index="21" local_memory="2147483648"/>
   <object type="NUMANode" os_index="2" cpuset="0x00000000" complete_cpuset="0x00000000" nodeset="0x00000004" complete_nodeset="0x00000004" gp_index="38" local_memory="4096"/>
   <object type="PU" os_index="2" cpuset="0x00000004" complete_cpuset="0x00000004" nodeset="0x00000002" complete_nodeset="0x00000002" gp_index="22"/>
   <object type="PU" os_index="3" cpuset="0x00000008" complete_cpuset="0x00000008" nodeset="0x00000002" complete_nodeset="0x00000002" gp_index="23"/>
   <object type="Bridge" gp_index="30" bridge_type="0-1" depth="0" bridge_pci="0000:[80-8f]">
    <object type="Bridge" gp_index="31" bridge_type="1-1" depth="1" bridge_pci="0000:[82-82]" pci_busid="0000:80:01.0" pci_type="0604 [8086:0001] [0000:0000] 00" pci_link_speed="0.000000">
     <object type="PCIDev" gp_index="32" pci_busid="0000:82:00.0" pci_type="1200 [1002:74a1] [0000:0000] 00" pci_link_speed="0.000000"/>
    </object>
    <object type="Bridge" gp_index="33" bridge_type="1-1" depth="1" bridge_pci="0000:[83-83]" pci_busid="0000:80:02.0" pci_type="0604 [8086:0001] [0000:0000] 00" pci_link_speed="0.000000">
     <object type="PCIDev" gp_index="34" pci_busid="0000:83:00.0" pci_type="0302 [10de:2330] [0000:0000] a1" pci_link_speed="0.000000">
      <info name="PCIDevice" value="GH100 [H100 SXM5 80GB]"/>
     </object>
    </object>
    <object type="Bridge" gp_index="35" bridge_type="1-1" depth="1" bridge_pci="0000:[84-84]" pci_busid="0000:80:03.0" pci_type="0604 [8086:0001] [0000:0000] 00" pci_link_speed="0.000000">
     <object type="PCIDev" gp_index="36" pci_busid="0000:84:00.0" pci_type="0207 [15b3:1021] [0000:0000] 00" pci_link_speed="0.000000"/>
    </object>
    <object type="PCIDev" gp_index="37" pci_busid="0000:85:00.0" pci_type="0300 [1a03:2000] [0000:0000] 41" pci_link_speed="0.000000"/>
   </object>
  </object>
 </object>
 <distances2 type="NUMANode" nbobjs="2" kind="5" name="NUMALatency" indexing="os">
  <indexes length="4">0 1 </indexes>
  <u64values length="12">10 21 22 10 </u64values>
 </distances2>
</topology>
)";

}  // namespace mooncake
