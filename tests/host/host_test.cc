// SPDX-License-Identifier: Apache-2.0
// Recorded /sys and /proc of hosts, judged; demands of domains on libvirt's test driver and of planned machines.
#include "libconvert/host/host.h"

#include "base/file.h"
#include "libconvert/host/connection.h"
#include "libconvert/host/overcommit.h"
#include "libconvert/source/source.h"
#include "tests/support/recorded_tree.h"
#include "tests/support/tempdir.h"

#include <gmock/gmock.h>

namespace fs = std::filesystem;
using testing::HasSubstr;

namespace kvmport::test {
namespace {

constexpr std::uint64_t gibi = 1U << 30;

HostFacts host_of(const std::string& entries) {
  const TempDir dir;
  unpack_entries("/sys/block/\n" + entries, dir.path());
  return read_host(dir.path());
}

std::string cpuinfo(const std::string& flags) {
  return "/proc/cpuinfo = processor\t: 0\\nvendor_id\t: GenuineIntel\\nmodel name\t: Xeon\\nflags\t\t: " + flags +
         "\\n\n/sys/devices/system/cpu/online = 0-3\n/sys/devices/system/cpu/present = 0-3\n";
}

Probe probe_of(Probe::Class kvm, const std::string& reason) {
  Probe probe;
  probe.kvm = kvm;
  probe.reasons = {reason};
  return probe;
}

const HostCheck& line_of(const std::vector<HostCheck>& checks, const std::string& name) {
  for (const HostCheck& check : checks)
    if (check.name == name)
      return check;
  throw std::runtime_error("no line " + name);
}

struct HardwareCase {
  const char *name, *flags, *entries;
  Probe::Class kvm;
  const char* line;
  Verdict verdict;
  const char* says; ///< in text or hint
};

constexpr HardwareCase hardware_cases[] = {
    {"Intel", "fpu vmx ept", "", Probe::Class::full, "processor", Verdict::ok, "Xeon, VT-x"},
    {"AMD", "fpu svm npt", "", Probe::Class::full, "processor", Verdict::ok, "AMD-V"},
    {"Intel, paging", "vmx ept", "/sys/module/kvm_intel/parameters/ept = Y\n", Probe::Class::full, "paging",
     Verdict::ok, "EPT"},
    {"paging switched off", "vmx ept", "/sys/module/kvm_intel/parameters/ept = N\n", Probe::Class::full, "paging",
     Verdict::warning, "EPT is switched off"},
    {"AMD, paging switched off", "svm npt", "/sys/module/kvm_amd/parameters/npt = 0\n", Probe::Class::full, "paging",
     Verdict::warning, "NPT is switched off"},
    {"old Intel", "vmx", "", Probe::Class::full, "paging", Verdict::warning, "no second level paging"},
    {"off in the firmware", "fpu", "", Probe::Class::none, "processor", Verdict::warning, "firmware's setup"},
    {"a virtual machine without nesting", "fpu hypervisor", "", Probe::Class::none, "processor", Verdict::warning,
     "nested virtualisation"},
    {"a software KVM", "fpu hypervisor", "/sys/module/kvm_pvm/version = 1\n", Probe::Class::emulated, "processor",
     Verdict::warning, "done in software"},
    {"a software KVM by its device", "fpu hypervisor", "", Probe::Class::emulated, "kvm", Verdict::bad, "slow"},
    {"no device", "vmx ept", "", Probe::Class::none, "kvm", Verdict::bad, "modprobe"},
    {"fast", "vmx ept", "", Probe::Class::full, "kvm", Verdict::ok, "speed of the hardware"},
    {"metal", "vmx ept", "", Probe::Class::full, "nesting", Verdict::ok, "no virtual machine"},
    {"nested", "vmx ept hypervisor", "/sys/class/dmi/id/sys_vendor = VMware, Inc.\n", Probe::Class::full, "nesting",
     Verdict::warning, "VMware, Inc."},
    {"nested in Xen", "vmx ept hypervisor", "/sys/hypervisor/type = xen\n", Probe::Class::full, "nesting",
     Verdict::warning, "xen"},
    {"huge pages", "vmx",
     "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages = 512\n"
     "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages = 100\n"
     "/sys/kernel/mm/transparent_hugepage/enabled = always [madvise] never\n",
     Probe::Class::full, "huge pages", Verdict::ok, "512 of 2048 KiB (100 free), transparent: madvise"},
    {"memory", "vmx", "/proc/meminfo = MemTotal: 8388608 kB\\nMemAvailable: 4194304 kB\\nSwapTotal: 0 kB\n",
     Probe::Class::full, "memory", Verdict::ok, "8.0 GiB, 4.0 GiB available"},
    {"little memory", "vmx", "/proc/meminfo = MemTotal: 1048576 kB\\nMemAvailable: 524288 kB\n", Probe::Class::full,
     "memory", Verdict::warning, "0.5 GiB available"},
    {"offline processors", "vmx", "/sys/devices/system/cpu/present = 0-7\n", Probe::Class::full, "topology",
     Verdict::warning, "4 offline"},
};

TEST(Hardware, IsJudgedByWhatTheKernelAndTheProbeSay) {
  for (const HardwareCase& c : hardware_cases) {
    const auto checks = check_hardware(host_of(cpuinfo(c.flags) + c.entries), probe_of(c.kvm, "it is slow"));
    const HostCheck& line = line_of(checks, c.line);
    EXPECT_EQ(line.verdict, c.verdict) << c.name << ": " << line.text;
    EXPECT_THAT(line.text + " " + line.hint, HasSubstr(c.says)) << c.name;
  }
}

TEST(Hardware, PermissionIsToldFromAbsence) {
  const auto checks =
      check_hardware(host_of(cpuinfo("vmx")), probe_of(Probe::Class::none, "can't open /dev/kvm: Permission denied"));
  EXPECT_THAT(line_of(checks, "kvm").hint, HasSubstr("group kvm"));
}

TEST(Software, UnreachableLibvirtIsAWarning) {
  EXPECT_EQ(line_of(check_software("test:///default"), "libvirt").verdict, Verdict::ok);
  EXPECT_EQ(line_of(check_software("test:///nowhere/at/all.xml"), "libvirt").verdict, Verdict::warning);
  const auto without = check_software("");
  EXPECT_TRUE(std::none_of(without.begin(), without.end(), [](const auto& c) { return c.name == "libvirt"; }));
}

TEST(Filesystem, OfAPathThatIsNotThereYetIsItsParents) {
  const TempDir dir;
  const FilesystemSpace here = filesystem_of(dir.path()), below = filesystem_of(dir.path() / "a/b/c");
  EXPECT_EQ(here.mount, below.mount);
  EXPECT_GT(here.size, 0U);
  EXPECT_LE(here.free, here.size);
  EXPECT_EQ(filesystem_of("/proc/self").mount, "/proc");
}

// --- overcommit --------------------------------------------------------------------------------------------------

Demand machine(const std::string& name, unsigned processors, std::uint64_t memory, std::vector<DiskDemand> disks = {}) {
  return {name, false, processors, memory, std::move(disks), {}};
}

/// A host of 8 threads and 32 GiB; /srv has 100 GiB free, /var 10.
HostCapacity capacity() {
  HostCapacity host;
  host.processors = 8;
  host.memory = 32 * gibi;
  host.filesystem = [](const fs::path& file) -> std::optional<FilesystemSpace> {
    const std::string path = file.string();
    if (path.starts_with("/srv/"))
      return FilesystemSpace{"/srv", 200 * gibi, 100 * gibi};
    if (path.starts_with("/var/"))
      return FilesystemSpace{"/var", 20 * gibi, 10 * gibi};
    return std::nullopt;
  };
  return host;
}

struct OvercommitCase {
  const char* name;
  std::vector<Demand> demands;
  /// "RESOURCE WHERE VERDICT" of every row.
  std::vector<std::string> rows;
};

TEST(Overcommit, VerdictsOfEachResource) {
  const std::uint64_t left = 32 * gibi - 32 * gibi / 20;
  const OvercommitCase cases[] = {
      {"nothing", {}, {"processors  ok", "memory  ok"}},
      {"all threads", {machine("a", 4, gibi), machine("b", 4, gibi)}, {"processors  ok", "memory  ok"}},
      {"one more", {machine("a", 5, gibi), machine("b", 4, gibi)}, {"processors  warning", "memory  ok"}},
      {"four a thread", std::vector<Demand>(4, machine("a", 8, gibi)), {"processors  warning", "memory  ok"}},
      {"beyond", std::vector<Demand>(5, machine("a", 8, gibi)), {"processors  over", "memory  ok"}},
      {"one larger than the host",
       {machine("big", 9, gibi)},
       {"processors  warning", "processors big over", "memory  ok"}},
      {"memory but the reserve", {machine("a", 1, left)}, {"processors  ok", "memory  ok"}},
      {"into the reserve", {machine("a", 1, left + 1)}, {"processors  ok", "memory  warning"}},
      {"all memory", {machine("a", 1, 32 * gibi)}, {"processors  ok", "memory  warning"}},
      {"more than all", {machine("a", 1, 32 * gibi), machine("b", 1, 1)}, {"processors  ok", "memory  over"}},
      {"sums don't wrap", {machine("a", 1, ~std::uint64_t{0}), machine("b", 1, 2)}, {"processors  ok", "memory  over"}},
      {"disks that fit",
       {machine("a", 1, gibi, {{"/srv/a", 90 * gibi, 20 * gibi}, {"/var/a", 8 * gibi, 0}})},
       {"processors  ok", "memory  ok", "disk /srv ok", "disk /var ok"}},
      {"thin disks of two machines",
       {machine("a", 1, gibi, {{"/srv/a", 60 * gibi, 10 * gibi}}),
        machine("b", 1, gibi, {{"/srv/b", 60 * gibi, gibi}})},
       {"processors  ok", "memory  ok", "disk /srv over"}},
      {"nearly full",
       {machine("a", 1, gibi, {{"/var/a", 9 * gibi, 0}})},
       {"processors  ok", "memory  ok", "disk /var warning"}},
      {"allocated with metadata, and on no filesystem",
       {machine("a", 1, gibi, {{"/var/a", gibi, 2 * gibi}, {"/none", gibi, 0}})},
       {"processors  ok", "memory  ok", "disk /var ok"}},
  };
  for (const OvercommitCase& c : cases) {
    std::vector<std::string> rows;
    for (const OvercommitRow& row : judge_overcommit(c.demands, capacity()))
      rows.push_back(row.resource + " " + row.where + " " + to_string(row.verdict, "over"));
    EXPECT_EQ(rows, c.rows) << c.name;
  }
}

TEST(Overcommit, CountsWhatDomainsHave) {
  const TempDir dir;
  const std::string thin = (dir.path() / "thin.qcow2").string(), gone = (dir.path() / "gone.raw").string();
  must_run({"qemu-img", "create", "-q", "-f", "qcow2", thin, "5G"});
  const Demand demand =
      domain_demand("<domain type='kvm'><name>web</name><memory unit='KiB'>2097152</memory><vcpu>3</vcpu><devices>"
                    "<disk type='file' device='disk'><driver type='qcow2'/><source file='" +
                    thin +
                    "'/></disk>"
                    "<disk type='file' device='cdrom'><source file='/x.iso'/></disk>"
                    "<disk type='block' device='disk'><source dev='/dev/vg/lv'/></disk>"
                    "<disk type='file' device='disk'><driver type='raw'/><source file='" +
                    gone + "'/></disk></devices></domain>");
  EXPECT_EQ(demand.name, "web");
  EXPECT_EQ(demand.processors, 3U);
  EXPECT_EQ(demand.memory, 2 * gibi);
  ASSERT_EQ(demand.disks.size(), 1U);
  EXPECT_EQ(demand.disks[0].virtual_size, 5 * gibi);
  EXPECT_LT(demand.disks[0].allocated, 1U << 20);
  EXPECT_THAT(demand.notes, testing::ElementsAre(HasSubstr("gone.raw")));
  EXPECT_THROW(domain_demand("<domain><memory unit='bananas'>1</memory></domain>"), Error);
  EXPECT_THROW(domain_demand("<network/>"), Error);
  EXPECT_THROW(domain_demand("<domain"), Error);
}

TEST(Overcommit, CountsTheDomainsOfAConnection) {
  const auto domains = LibvirtConnection("test:///default").all_domains();
  ASSERT_EQ(domains.size(), 1U);
  const Demand demand = domain_demand(domains[0]);
  EXPECT_EQ(demand.name, "test");
  EXPECT_EQ(demand.processors, 2U);
  EXPECT_EQ(demand.memory, 8 * gibi);
}

TEST(Overcommit, CountsPlannedMachinesWhole) {
  const TempDir dir;
  must_run({"qemu-img", "create", "-q", "-f", "vmdk", (dir.path() / "d.vmdk").string(), "7G"});
  write_file_durably(dir.path() / "vm.vmx", "displayName = \"vm\"\nmemsize = \"512\"\nnumvcpus = \"2\"\n"
                                            "scsi0.present = \"TRUE\"\nscsi0:0.present = \"TRUE\"\n"
                                            "scsi0:0.fileName = \"d.vmdk\"\n");
  const Demand demand = planned_demand(read_machine(dir.path() / "vm.vmx"), "/srv/guests");
  EXPECT_TRUE(demand.planned);
  EXPECT_EQ(demand.processors, 2U);
  EXPECT_EQ(demand.memory, 512U << 20);
  ASSERT_EQ(demand.disks.size(), 1U);
  EXPECT_EQ(demand.disks[0].growth(), 7 * gibi);
  EXPECT_EQ(demand.disks[0].file.parent_path(), "/srv/guests");
  EXPECT_THROW(read_machine(dir.path() / "d.vmdk"), Error);
}

} // namespace
} // namespace kvmport::test
