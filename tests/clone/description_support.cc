// SPDX-License-Identifier: Apache-2.0
#include "tests/clone/description_support.h"

#include "base/error.h"
#include "base/file.h"

namespace kvmport::test {

std::string everything() {
  return read_file("tests/clone/data/everything.xml");
}

DescriptionRequest everything_request(const std::string& name) {
  DescriptionRequest request;
  request.name = name;
  request.files_directory = "/srv/run/" + name;
  request.disks["/var/lib/libvirt/images/web.qcow2"] = {"/srv/" + name + ".qcow2", "", false};
  request.disks["sda"] = {"/dev/vg0/" + name, "", true};
  request.disks["/var/lib/libvirt/web.nvdimm"] = {"/srv/" + name + ".nvdimm", "", false};
  request.disks["/srv/web"] = {"/srv/" + name + ".data", "", false};
  return request;
}

std::string domain_with(const std::string& devices, const std::string& more) {
  return "<domain type='kvm'>\n<name>web</name>\n<uuid>3e3fce45-4f53-4fa7-bb32-11f34168b82b</uuid>\n"
         "<memory>1048576</memory>\n<os><type arch='x86_64' machine='q35'>hvm</type></os>\n" +
         more + "\n<devices>\n" + devices + "\n</devices>\n</domain>\n";
}

DescriptionResult clone_of(const std::string& xml, DescriptionRequest request) {
  if (request.name.empty())
    request.name = "web-clone";
  TakenIdentities taken;
  return clone_description(xml, "web.xml", request, taken);
}

std::string code_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.code();
  }
  return "";
}

bool has_warning(const DescriptionResult& result, const std::string& rule, const std::string& in_quote) {
  for (const DescriptionWarning& warning : result.warnings)
    if (warning.rule == rule && contains(warning.quote, in_quote))
      return true;
  return false;
}

std::vector<DescriptionChange> changes_of(const DescriptionResult& result, const std::string& rule) {
  std::vector<DescriptionChange> changes;
  for (const DescriptionChange& change : result.changes)
    if (change.rule == rule)
      changes.push_back(change);
  return changes;
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

} // namespace kvmport::test
