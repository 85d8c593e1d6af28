// SPDX-License-Identifier: Apache-2.0
// Foreign descriptions from other projects, and hostile ones.
#include "tests/machine/support.h"

namespace fs = std::filesystem;

namespace kvmport {
namespace {

using test::error_code;
using test::touch;

fs::path samples() {
  return test::sample_images();
}

TEST(OvfSamples, VirtManager) {
  if (samples().empty())
    GTEST_SKIP() << "NO SAMPLE IMAGES on this machine: virt-manager's OVF files are not read";
  const struct {
    const char *file, *name;
    std::uint64_t memory;
    unsigned cpus;
    std::vector<const char*> disks;
    ControllerType controller;
    std::size_t nics;
    bool gzip;
  } rows[] = {
      {"test1.ovf", "test.ovf", 777ULL << 20, 3, {"test.ovf-disk1.vmdk", "testfile"}, ControllerType::scsi, 1, false},
      {"test2.ovf", "w2k3 32bit", 1ULL << 30, 1, {"w2k3 32bit-disk1.vmdk"}, ControllerType::scsi, 1, false},
      {"test_gzip.ovf", "test_gzip.ovf", 4ULL << 30, 1, {"test_gzip.ovf-disk1.vmdk.gz"}, ControllerType::scsi, 0, true},
      {"ovf_directory/CentOS-6.4-i386-Gnome.ovf",
       "CentOS-6.4-i386-Gnome",
       512ULL << 20,
       1,
       {"CentOS-6.4-i386-Gnome-disk1.vmdk"},
       ControllerType::sata,
       1,
       false},
  };
  for (const auto& row : rows) {
    SCOPED_TRACE(row.file);
    TempDir dir;
    fs::copy(samples() / "virt-manager" / "ovf_input" / row.file, dir.path() / "vm.ovf");
    for (const char* disk : row.disks)
      touch(dir.path() / disk);
    const Machine m = read_ovf(dir.path() / "vm.ovf");
    EXPECT_EQ(m.name, row.name);
    EXPECT_EQ(m.memory, row.memory);
    EXPECT_EQ(m.cpu.count(), row.cpus);
    ASSERT_EQ(m.disks.size(), row.disks.size());
    for (std::size_t i = 0; i < row.disks.size(); i++)
      EXPECT_EQ(m.disks[i].path.filename(), row.disks[i]);
    EXPECT_EQ(m.disks[0].controller, row.controller);
    EXPECT_EQ(m.disks[0].gzip, row.gzip);
    EXPECT_GE(m.nics.size(), row.nics);
    EXPECT_EQ(m.firmware, MachineFirmware::bios);
  }
}

TEST(VmxSamples, VirtManager) {
  if (samples().empty())
    GTEST_SKIP() << "NO SAMPLE IMAGES on this machine: virt-manager's VMX files are not read";
  const fs::path input = samples() / "virt-manager" / "vmx_input";
  EXPECT_TRUE(read_vmx(input / "test-nodisks.vmx").disks.empty());
  EXPECT_EQ(error_code([&] { read_vmx(input / "test1.vmx"); }), "DISK_MISSING");
  const Machine m = read_vmx(input / "vmx-dir" / "test-vmdk-desc.vmx");
  ASSERT_EQ(m.disks.size(), 1U);
  EXPECT_EQ(m.disks[0].path.filename(), "test-vmdk-desc.vmdk");
}

TEST(OvfSamples, OpenVmdkTemplates) {
  if (samples().empty())
    GTEST_SKIP() << "NO SAMPLE IMAGES on this machine: open-vmdk's OVF templates are not read";
  unsigned read = 0;
  for (const fs::directory_entry& entry : fs::directory_iterator(samples() / "open-vmdk")) {
    if (entry.path().extension() != ".ovf")
      continue;
    SCOPED_TRACE(entry.path().filename().string());
    std::string text = read_file(entry.path());
    const std::pair<const char*, const char*> values[] = {
        {"@@NAME@@", "vm"},       {"@@VMDK_FILE_SIZE@@", "1"}, {"@@VMDK_CAPACITY@@", "1048576"}, {"@@NUM_CPUS@@", "2"},
        {"@@MEM_SIZE@@", "1024"}, {"@@FIRMWARE@@", "efi"},     {"@@SECURE_BOOT@@", "true"}};
    for (const auto& [key, value] : values)
      for (std::size_t at = text.find(key); at != std::string::npos; at = text.find(key, at))
        text.replace(at, std::string(key).size(), value);
    TempDir dir;
    touch(dir.path() / "vm.ovf", text);
    touch(dir.path() / "vm-disk1.vmdk");
    const Machine m = read_ovf(dir.path() / "vm.ovf");
    EXPECT_EQ(m.name, "vm");
    EXPECT_EQ(m.memory, 1ULL << 30);
    EXPECT_EQ(m.cpu.count(), 2U);
    ASSERT_EQ(m.disks.size(), 1U);
    EXPECT_EQ(m.disks[0].controller, ControllerType::scsi);
    EXPECT_EQ(m.disks[0].capacity, 1U << 20);
    ASSERT_EQ(m.nics.size(), 1U);
    EXPECT_EQ(m.nics[0].network, "VM Network");
    if (text.find("vmw:key=\"firmware\" vmw:value=\"efi\"") != std::string::npos) {
      EXPECT_EQ(m.firmware, MachineFirmware::uefi);
    }
    read++;
  }
  EXPECT_GE(read, 10U);
}

TEST(HostileSamples, AreAcceptedOrRefusedByCode) {
  if (samples().empty())
    GTEST_SKIP() << "NO SAMPLE IMAGES on this machine: the hostile descriptions are not tried";
  const std::pair<const char*, const char*> rows[] = {
      {"ova-good-mf-last-nosp.ova", ""},
      {"ova-good-sha512.ova", ""},
      {"ova-mf-missing-file.ova", "MANIFEST_MISMATCH"},
      {"ova-mf-unlisted-disk.ova", "MANIFEST_MISMATCH"},
      {"ova-traversal.ova", "PATH_NOT_ALLOWED"},
      {"ova-symlink-disk.ova", "PATH_NOT_ALLOWED"},
      {"ova-hardlink-disk.ova", "PATH_NOT_ALLOWED"},
      {"ova-device.ova", "DESCRIPTION_INVALID"},
      {"ova-pax-longname.ova", ""},
      {"ova-gnu-longname.ova", ""},
      {"ova-trunc.ova", "DISK_TRUNCATED"},
      {"ova-no-eof-blocks.ova", "DISK_TRUNCATED"}, // not only the end mark is missing: four fifths of its disk are
      {"ova-href-http.ova", "PATH_NOT_ALLOWED"},
      {"ova-href-missing.ova", "DISK_MISSING"},
      {"ova-gz-disk.ova", ""},
      {"ova-chunked.ova", ""},
      {"ovf-billion-laughs.ovf", "DESCRIPTION_INVALID"},
      {"ovf-xxe-file.ovf", "DESCRIPTION_INVALID"},
      {"ovf-deep.ovf", "DESCRIPTION_INVALID"},
      {"ovf-bad-utf8.ovf", "DESCRIPTION_INVALID"},
      {"ovf-utf16.ovf", ""},
      {"vmx-traversal.vmx", "PATH_NOT_ALLOWED"},
      {"vmx-longline.vmx", "DESCRIPTION_INVALID"},
      {"libvirt-xxe.xml", "DESCRIPTION_INVALID"},
      {"vbox-laughs.vbox", "DESCRIPTION_INVALID"},
  };
  for (const auto& [file, code] : rows) {
    TempDir dir;
    fs::copy(samples() / "negative" / file, dir.path() / file);
    touch(dir.path() / "d.vmdk"); // for the .ovf files
    const fs::path path = dir.path() / file;
    const std::string extension = path.extension();
    EXPECT_EQ(error_code([&] {
                if (extension == ".ova")
                  read_ova(path);
                else if (extension == ".ovf")
                  read_ovf(path);
                else if (extension == ".vmx")
                  read_vmx(path);
                else if (extension == ".vbox")
                  read_vbox(path);
                else
                  read_libvirt_xml(path);
              }),
              code)
        << file;
  }
}

} // namespace
} // namespace kvmport
