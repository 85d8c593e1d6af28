// SPDX-License-Identifier: Apache-2.0
#include "base/process.h"
#include "libconvert/target/target.h"
#include "tests/support/tempdir.h"

#include <filesystem>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <tinyxml2.h>

namespace fs = std::filesystem;

namespace kvmport {
namespace {

TargetMachine web_server() {
  TargetMachine m;
  m.source.name = "web01";
  m.source.uuid = "564d7088-01a1-9832-e72b-6790c73b64ea";
  m.source.memory = 3ULL << 30;
  m.source.cpu = {2, 4, 1, {}};
  m.source.nics = {{"00:0c:29:3b:64:ea", "VM Network", "vmxnet3", {}, true, {}, {}},
                   {"00:0c:29:3b:64:f4", "", "e1000", {}, false, {}, {}}};
  m.disks = {{"/srv/web01-sda.qcow2", "qcow2", 512, 512, "", {}},
             {"/srv/web01-sdb.raw", "raw", 4096, 4096, "S-1.2", {}}};
  return m;
}

/// Empty when virt-xml-validate takes the XML as a domain, else what it says.
std::string schema_complaint(const std::string& xml) {
  TempDir dir;
  write_file_durably(dir.path() / "d.xml", xml);
  ProcessResult r =
      run_process({"virt-xml-validate", (dir.path() / "d.xml").string(), "domain"}, std::chrono::minutes(1));
  return r.exit_code == 0 ? "" : r.out + r.err;
}

/// The arguments that QEMU gets when the script runs, seen by a stand-in for it.
std::vector<std::string> script_arguments(const std::string& script, const fs::path& dir,
                                          const std::vector<std::string>& extra = {}) {
  write_file_durably(dir / "run.sh", script);
  write_file_durably(dir / "qemu-system-x86_64", "#!/bin/sh\nprintf '%s\\0' \"$@\"\n");
  ::chmod((dir / "qemu-system-x86_64").c_str(), 0755);
  std::vector<std::string> argv = {"env", "PATH=" + dir.string() + ":/usr/bin:/bin", "sh", (dir / "run.sh").string()};
  argv.insert(argv.end(), extra.begin(), extra.end());
  const std::string out = test::must_run(argv);
  std::vector<std::string> arguments;
  for (std::size_t at = 0; at < out.size();) {
    const std::size_t end = out.find('\0', at);
    arguments.push_back(out.substr(at, end - at));
    at = end == std::string::npos ? out.size() : end + 1;
  }
  return arguments;
}

bool has_option(const std::vector<std::string>& arguments, const std::string& option, const std::string& value) {
  for (std::size_t i = 0; i + 1 < arguments.size(); i++)
    if (arguments[i] == option && arguments[i + 1] == value)
      return true;
  return false;
}

struct Variant {
  const char* name;
  void (*change)(TargetMachine&);
};

const Variant variants[] = {
    {"plain", [](TargetMachine&) {}},
    {"uefi", [](TargetMachine& m) { m.uefi = true, m.nvram_file = "/srv/web01_VARS.fd"; }},
    {"uefi_without_nvram_file", [](TargetMachine& m) { m.uefi = true; }},
    {"secure_boot", [](TargetMachine& m) { m.uefi = m.secure_boot = true, m.nvram_file = "/srv/v.fd"; }},
    {"no_virtio", [](TargetMachine& m) { m.virtio_disk = m.virtio_net = false; }},
    {"tpm_localtime",
     [](TargetMachine& m) {
       m.source.tpm = m.source.rtc_localtime = true;
       m.source.genid = "56ed3ab2-37dd-4a58-8f68-42b3a4a8d58d";
     }},
    {"bare_disk",
     [](TargetMachine& m) {
       m = {}, m.disks = {{"/d.qcow2", "qcow2", 512, 512, "", {}}};
     }},
    {"smbios",
     [](TargetMachine& m) {
       m.source.smbios = {"Maker, Inc.", "Box <9>", "v1",      "SN 1",       "SKU", "Family", "Board Maker", "BRD",
                          "1.1",         "B-1",     "ASSET B", "Metal & Co", "C1",  "CH-1",   "ASSET-42",    "CSKU"};
     }},
    {"smbios_serial_only", [](TargetMachine& m) { m.source.smbios.serial = "SN-1"; }},
    {"no_disk", [](TargetMachine& m) { m.disks.clear(); }},
    {"boot_orders", [](TargetMachine& m) { m.disks[1].boot_order = 1, m.source.nics[0].boot_order = 2; }},
    {"hostile_text",
     [](TargetMachine& m) {
       m.source.name = "a'b\"c;$(reboot)`x`\n</name><x>&\x01\xff\t,id=1";
       m.source.description = "]]> <!-- \xC3\x28 \xED\xA0\x80 \x1b[31m -- -";
       m.source.nics[0].network = "--> <x/> --- -";
       m.disks[0].file = "/srv/a b,c'd\"&<.qcow2";
       m.disks[1].serial = "bad\nserial<&";
     }},
    {"thirty_disks",
     [](TargetMachine& m) {
       for (int i = 0; i < 30; i++)
         m.disks.push_back({"/srv/" + std::to_string(i), "raw", 512, 4096, "", {}});
     }},
};

class TargetVariant : public ::testing::TestWithParam<Variant> {
 protected:
  TargetMachine machine() const {
    TargetMachine m = web_server();
    GetParam().change(m);
    return m;
  }
};

TEST_P(TargetVariant, DomainPassesLibvirtsSchema) {
  const std::string xml = libvirt_xml(machine());
  EXPECT_EQ(schema_complaint(xml), "") << xml;
}

TEST_P(TargetVariant, ScriptIsValidShellAndPassesValuesUnchanged) {
  const TargetMachine m = machine();
  TempDir dir;
  write_file_durably(dir.path() / "t.sh", qemu_script(m));
  EXPECT_EQ(run_process({"sh", "-n", (dir.path() / "t.sh").string()}, std::chrono::seconds(30)).exit_code, 0);
  TargetMachine here = m; // the script makes a missing variable store
  if (!here.nvram_file.empty()) {
    here.nvram_file = (dir.path() / "nv, '$x.fd").string();
    write_file_durably(here.nvram_file, "x");
  }
  const auto arguments = script_arguments(qemu_script(here), dir.path(), {"-my own", "it's\n"});
  for (std::size_t i = 0; i < m.disks.size(); i++) {
    std::string file;
    for (char c : m.disks[i].file)
      file += c == ',' ? ",," : std::string(1, c);
    EXPECT_TRUE(has_option(arguments, "-drive",
                           "if=none,id=disk" + std::to_string(i) + ",format=" + m.disks[i].format +
                               ",discard=unmap,file=" + file));
  }
  ASSERT_GE(arguments.size(), 2U);
  EXPECT_EQ(arguments[arguments.size() - 2], "-my own");
  EXPECT_EQ(arguments.back(), "it's\n");
}

INSTANTIATE_TEST_SUITE_P(All, TargetVariant, ::testing::ValuesIn(variants),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(LibvirtXml, SchemaCheckCanFail) {
  std::string xml = libvirt_xml(web_server());
  xml.replace(xml.find("<name>"), 6, "<nmae>");
  xml.replace(xml.find("</name>"), 7, "</nmae>");
  EXPECT_NE(schema_complaint(xml), "");
}

TEST(LibvirtXml, KeepsWhatTheGuestSees) {
  TargetMachine m = web_server();
  m.source.rtc_localtime = m.source.tpm = true;
  tinyxml2::XMLDocument document;
  ASSERT_EQ(document.Parse(libvirt_xml(m).c_str()), tinyxml2::XML_SUCCESS);
  const auto* domain = document.RootElement();
  EXPECT_STREQ(domain->FirstChildElement("name")->GetText(), "web01");
  EXPECT_STREQ(domain->FirstChildElement("uuid")->GetText(), "564d7088-01a1-9832-e72b-6790c73b64ea");
  EXPECT_STREQ(domain->FirstChildElement("memory")->GetText(), "3145728");
  EXPECT_STREQ(domain->FirstChildElement("vcpu")->GetText(), "8");
  const auto* topology = domain->FirstChildElement("cpu")->FirstChildElement("topology");
  EXPECT_EQ(topology->IntAttribute("sockets"), 2);
  EXPECT_EQ(topology->IntAttribute("cores"), 4);
  EXPECT_STREQ(domain->FirstChildElement("clock")->Attribute("offset"), "localtime");
  const auto* devices = domain->FirstChildElement("devices");
  const auto* disk = devices->FirstChildElement("disk");
  EXPECT_STREQ(disk->FirstChildElement("target")->Attribute("dev"), "vda");
  EXPECT_EQ(disk->FirstChildElement("boot")->IntAttribute("order"), 1);
  EXPECT_EQ(disk->FirstChildElement("blockio"), nullptr);
  disk = disk->NextSiblingElement("disk");
  EXPECT_STREQ(disk->FirstChildElement("source")->Attribute("file"), "/srv/web01-sdb.raw");
  EXPECT_STREQ(disk->FirstChildElement("driver")->Attribute("type"), "raw");
  EXPECT_EQ(disk->FirstChildElement("blockio")->IntAttribute("logical_block_size"), 4096);
  EXPECT_STREQ(disk->FirstChildElement("serial")->GetText(), "S-1.2");
  EXPECT_EQ(disk->FirstChildElement("boot"), nullptr);
  const auto* nic = devices->FirstChildElement("interface");
  EXPECT_STREQ(nic->FirstChildElement("mac")->Attribute("address"), "00:0c:29:3b:64:ea");
  EXPECT_STREQ(nic->FirstChildElement("model")->Attribute("type"), "virtio");
  EXPECT_EQ(nic->FirstChildElement("link"), nullptr);
  nic = nic->NextSiblingElement("interface");
  EXPECT_STREQ(nic->FirstChildElement("link")->Attribute("state"), "down");
  EXPECT_STREQ(devices->FirstChildElement("tpm")->FirstChildElement("backend")->Attribute("version"), "2.0");
  EXPECT_STREQ(devices->FirstChildElement("channel")->FirstChildElement("target")->Attribute("name"),
               "org.qemu.guest_agent.0");
  EXPECT_NE(devices->FirstChildElement("rng"), nullptr);
  EXPECT_NE(devices->FirstChildElement("memballoon"), nullptr);
}

TEST(LibvirtXml, SmbiosStringsAreKeptAndOnlyThen) {
  TargetMachine m = web_server();
  EXPECT_EQ(libvirt_xml(m).find("sysinfo"), std::string::npos);
  EXPECT_EQ(qemu_script(m).find("-smbios"), std::string::npos);
  m.source.smbios.serial = "SN-1";
  m.source.smbios.chassis_asset = "ASSET,42";
  const std::string xml = libvirt_xml(m);
  EXPECT_NE(xml.find("<entry name=\"serial\">SN-1</entry>"), std::string::npos);
  EXPECT_NE(xml.find("<smbios mode=\"sysinfo\"/>"), std::string::npos);
  EXPECT_EQ(xml.find("baseBoard"), std::string::npos);
  TempDir dir;
  const auto arguments = script_arguments(qemu_script(m), dir.path());
  EXPECT_TRUE(has_option(arguments, "-smbios", "type=1,serial=SN-1"));
  EXPECT_TRUE(has_option(arguments, "-smbios", "type=3,asset=ASSET,,42"));
}

TEST(LibvirtXml, FirmwareFilesExistAndFollowSecureBoot) {
  for (bool secure : {false, true}) {
    EXPECT_TRUE(fs::exists(firmware_files(secure).code));
    EXPECT_TRUE(fs::exists(firmware_files(secure).variables));
    TargetMachine m = web_server();
    m.uefi = true, m.secure_boot = secure, m.nvram_file = "/srv/v.fd";
    const std::string xml = libvirt_xml(m);
    EXPECT_NE(xml.find(firmware_files(secure).code), std::string::npos);
    EXPECT_NE(xml.find("template=\"" + firmware_files(secure).variables + "\">/srv/v.fd<"), std::string::npos);
    EXPECT_EQ(xml.find("<smm state=\"on\"/>") != std::string::npos, secure);
  }
}

TEST(BootEntries, FollowTheSourceAndFallBackToTheFirstDisk) {
  TargetMachine m = web_server();
  ASSERT_EQ(boot_entries(m).size(), 1U);
  EXPECT_EQ(boot_entries(m)[0].index, 0U);
  m.disks[0].boot_order = 7;
  m.disks[1].boot_order = 2;
  m.source.nics[1].boot_order = 4;
  const auto entries = boot_entries(m);
  ASSERT_EQ(entries.size(), 3U);
  EXPECT_EQ(entries[0].index, 1U);
  EXPECT_TRUE(entries[1].nic);
  EXPECT_EQ(entries[1].index, 1U);
  EXPECT_EQ(entries[2].index, 0U);
}

TEST(QemuScript, RealQemuTakesIt) {
  TempDir dir;
  for (const Variant& variant : variants) {
    TargetMachine m = web_server();
    variant.change(m);
    if (m.disks.size() > 8)
      continue; // more PCI devices than slots without bridges
    m.source.memory = 64U << 20;
    m.source.tpm = false;
    m.source.cpu = {};
    if (!m.nvram_file.empty())
      m.nvram_file = (dir.path() / (std::string(variant.name) + ",VARS.fd")).string();
    unsigned number = 0;
    for (TargetDisk& disk : m.disks) {
      disk.file = (dir.path() / (std::string(variant.name) + " ,'" + std::to_string(number++))).string();
      test::must_run({"qemu-img", "create", "-q", "-f", disk.format, disk.file, "8M"});
    }
    write_file_durably(dir.path() / "run.sh", qemu_script(m));
    write_file_durably(dir.path() / "commands", "{\"execute\":\"qmp_capabilities\"}\n{\"execute\":\"query-block\"}\n"
                                                "{\"execute\":\"quit\"}\n");
    ProcessResult r = run_process({"sh", "-c", "exec env QEMU_ACCEL=tcg sh \"$1\" -S -display none -qmp stdio <\"$2\"",
                                   "sh", (dir.path() / "run.sh").string(), (dir.path() / "commands").string()},
                                  std::chrono::minutes(2));
    EXPECT_EQ(r.exit_code, 0) << variant.name << "\n" << r.err << "\n" << qemu_script(m);
    for (std::size_t i = 0; i < m.disks.size(); i++)
      EXPECT_NE(r.out.find("\"device\": \"disk" + std::to_string(i) + "\""), std::string::npos) << variant.name;
  }
}

TEST(QemuScript, NameCannotStartACommand) {
  TempDir dir;
  TargetMachine m = web_server();
  m.source.name =
      "x\ntouch " + (dir.path() / "pwned").string() + "\n'; touch " + (dir.path() / "pwned").string() + " #";
  const auto arguments = script_arguments(qemu_script(m), dir.path());
  EXPECT_FALSE(fs::exists(dir.path() / "pwned"));
  EXPECT_TRUE(has_option(arguments, "-name", "guest=" + m.source.name));
}

TEST(SafeName, KeepsGoodNamesAndMendsBadOnes) {
  const std::pair<std::string, std::string> rows[] = {{"web01", "web01"},
                                                      {"a b/c", "a_b_c"},
                                                      {"../../etc/passwd", "_.._etc_passwd"},
                                                      {"", "machine"},
                                                      {"...", "machine"},
                                                      {"--", "machine"},
                                                      {"日本", "machine"},
                                                      {"-rf", "rf"},
                                                      {".hidden", "hidden"},
                                                      {"x\n\ny", "x_y"},
                                                      {"Ünix", "_nix"},
                                                      {"A.b-c_d", "A.b-c_d"},
                                                      {"name (copy)", "name_copy"}};
  for (const auto& [in, out] : rows)
    EXPECT_EQ(safe_name(in), out) << in;
  EXPECT_LE(safe_name(std::string(5000, 'x')).size(), 200U);
}

} // namespace
} // namespace kvmport
