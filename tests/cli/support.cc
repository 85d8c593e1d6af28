// SPDX-License-Identifier: Apache-2.0
#include "tests/cli/support.h"

#include "base/file.h"
#include "tests/support/guests.h"
#include "tests/support/tempdir.h"

#include <gtest/gtest.h>
#include <sstream>

namespace fs = std::filesystem;
using nlohmann::json;

namespace kvmport::test {

ProcessResult run(const std::string& program, const std::vector<std::string>& arguments) {
  std::vector<std::string> argv{command(program).string()};
  argv.insert(argv.end(), arguments.begin(), arguments.end());
  return run_process(argv, std::chrono::minutes(25));
}

json event_of(const ProcessResult& process, const std::string& kind) {
  std::istringstream lines(process.out);
  json last;
  for (std::string line; std::getline(lines, line);) {
    json event = json::parse(line, nullptr, false);
    EXPECT_TRUE(event.is_object() && event.contains("event")) << line;
    if (event.is_object() && (kind.empty() || event.value("event", "") == kind))
      last = std::move(event);
  }
  EXPECT_TRUE(last.is_object()) << "no event " << kind << " in: " << process.out << process.err;
  return last;
}

json last_event(const ProcessResult& process) {
  return event_of(process, "");
}

std::vector<std::string> names_in(const fs::path& directory) {
  std::vector<std::string> names;
  if (fs::exists(directory))
    for (const auto& entry : fs::directory_iterator(directory))
      names.push_back(entry.path().filename().string());
  return names;
}

fs::path disk_as(const fs::path& dir, const std::string& format, const std::vector<std::string>& options) {
  const fs::path raw = dir / "pattern", out = dir / ("disk." + format);
  make_pattern_file(raw, 8U << 20, 7);
  std::vector<std::string> argv{"qemu-img", "convert", "-q", "-f", "raw", "-O", format};
  argv.insert(argv.end(), options.begin(), options.end());
  argv.insert(argv.end(), {raw.string(), out.string()});
  must_run(argv);
  fs::remove(raw);
  return out;
}

void poke(const fs::path& file, std::uint64_t offset, std::uint8_t value) {
  UniqueFd fd = open_existing(file);
  const std::byte b{value};
  write_exact(fd.get(), offset, {&b, 1}, file.string());
}

fs::path write_vmx(const fs::path& dir, const std::string& disk) {
  write_file_durably(dir / "vm.vmx", "displayName = \"vm\"\nmemsize = \"512\"\nscsi0.present = \"TRUE\"\n"
                                     "scsi0:0.present = \"TRUE\"\nscsi0:0.fileName = \"" +
                                         disk + "\"\n");
  return dir / "vm.vmx";
}

std::string ovf(const std::vector<std::string>& names, bool memory) {
  std::string text = "<Envelope xmlns=\"http://schemas.dmtf.org/ovf/envelope/1\" "
                     "xmlns:ovf=\"http://schemas.dmtf.org/ovf/envelope/1\" "
                     "xmlns:rasd=\"http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/"
                     "CIM_ResourceAllocationSettingData\">"
                     "<References><File ovf:href=\"disk.vmdk\" ovf:id=\"f\"/></References>"
                     "<DiskSection><Disk ovf:diskId=\"d\" ovf:fileRef=\"f\" ovf:capacity=\"8388608\"/></DiskSection>"
                     "<VirtualSystemCollection ovf:id=\"all\">";
  for (const std::string& name : names) {
    text += "<VirtualSystem ovf:id=\"" + name + "\"><VirtualHardwareSection>";
    if (memory)
      text += "<Item><rasd:AllocationUnits>byte * 2^20</rasd:AllocationUnits><rasd:InstanceID>1</rasd:InstanceID>"
              "<rasd:ResourceType>4</rasd:ResourceType><rasd:VirtualQuantity>512</rasd:VirtualQuantity></Item>";
    text += "<Item><rasd:InstanceID>2</rasd:InstanceID><rasd:ResourceType>6</rasd:ResourceType></Item>"
            "<Item><rasd:AddressOnParent>0</rasd:AddressOnParent><rasd:HostResource>ovf:/disk/d</rasd:HostResource>"
            "<rasd:InstanceID>3</rasd:InstanceID><rasd:Parent>2</rasd:Parent><rasd:ResourceType>17</rasd:ResourceType>"
            "</Item></VirtualHardwareSection></VirtualSystem>";
  }
  return text + "</VirtualSystemCollection></Envelope>";
}

void encrypt(const fs::path& image, const fs::path& key_file) {
  // Offline re-encryption moves the data up by half the room that it is given, and needs no device-mapper.
  fs::resize_file(image, fs::file_size(image) + (16U << 20));
  write_file_durably(key_file, "open sesame");
  must_run({"cryptsetup", "reencrypt", "--encrypt", "--type", "luks2", "--reduce-device-size", "16M", "--pbkdf",
            "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file", key_file.string(), "--batch-mode",
            image.string()});
  write_file_durably(key_file, "open sesame\n");
}

} // namespace kvmport::test
