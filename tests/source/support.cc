// SPDX-License-Identifier: Apache-2.0
#include "tests/source/support.h"

namespace kvmport::test {

std::string error_code(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.code();
  }
  return "";
}

std::string OvfText::text(const std::string& disk) const {
  const auto item = [](int id, int type, const std::string& inside) {
    return "<Item><rasd:InstanceID>" + std::to_string(id) + "</rasd:InstanceID><rasd:ResourceType>" +
           std::to_string(type) + "</rasd:ResourceType>" + inside + "</Item>";
  };
  return R"(<?xml version="1.0"?><Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1" xmlns:rasd="r"><References>)"
         "<File ovf:id=\"f\" ovf:href=\"" +
         disk + "\" " + file_attributes + "/></References><DiskSection><Disk ovf:diskId=\"d\" " +
         (blank ? "" : "ovf:fileRef=\"f\" ") + "ovf:capacity=\"" + std::to_string(capacity) + "\" ovf:format=\"" +
         format + "\"/></DiskSection><VirtualSystem ovf:id=\"vm\"><VirtualHardwareSection>" +
         item(1, 3, "<rasd:VirtualQuantity>1</rasd:VirtualQuantity>") +
         item(2, 4,
              "<rasd:AllocationUnits>byte * "
              "2^20</rasd:AllocationUnits><rasd:VirtualQuantity>64</rasd:VirtualQuantity>") +
         item(3, 20, "<rasd:ResourceSubType>AHCI</rasd:ResourceSubType>") +
         item(4, 17, "<rasd:HostResource>/disk/d</rasd:HostResource><rasd:Parent>3</rasd:Parent>") +
         "</VirtualHardwareSection></VirtualSystem></Envelope>";
}

std::string ova_bytes(const std::string& disk, const std::string& bytes, const OvfText& ovf,
                      const std::string& algorithm) {
  TempDir dir;
  write_file_durably(dir.path() / "vm.ovf", ovf.text(disk));
  write_file_durably(dir.path() / disk, bytes);
  std::vector<std::string> argv = {"tar", "--format=ustar", "-cf", "vm.ova", "vm.ovf"};
  if (!algorithm.empty()) {
    std::string name = algorithm;
    for (char& c : name)
      c = static_cast<char>(c - (c >= 'a' && c <= 'z' ? 'a' - 'A' : 0));
    std::string manifest;
    for (const std::string& file : {std::string("vm.ovf"), disk})
      manifest += name + "(" + file + ")= " +
                  must_run({algorithm + "sum", (dir.path() / file).string()}).substr(0, algorithm == "sha1" ? 40 : 64) +
                  "\n";
    write_file_durably(dir.path() / "vm.mf", manifest);
    argv.push_back("vm.mf");
  }
  argv.push_back(disk);
  must_run(argv, dir.path());
  return read_file(dir.path() / "vm.ova", 1U << 30);
}

} // namespace kvmport::test
