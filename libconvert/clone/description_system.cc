// SPDX-License-Identifier: Apache-2.0
// Rules for what a clone's machine is called and says about itself: name, UUIDs, SMBIOS strings, metadata, labels.
// formatdomain.html: "General metadata", "SMBIOS System Information", "Security label".
#include "libconvert/clone/description_run.h"

#include "libconvert/machine/text.h"

namespace kvmport {
namespace {

/// `text` with these words exchanged.
std::string with_words(const std::string& text, const std::map<std::string, std::string, std::less<>>& words) {
  std::string result;
  std::size_t done = 0;
  each_word(text, {0, text.size()}, [&](ByteRange place) {
    const auto found = words.find(lower(text.substr(place.begin, place.end - place.begin)));
    if (found == words.end())
      return;
    result += text.substr(done, place.begin - done) + found->second;
    done = place.end;
  });
  return result + text.substr(done);
}

} // namespace

void clone_domain_id(DescriptionRun& run) {
  run.remove_attribute(run.domain(), "id", "a running domain has it");
}

void clone_name_rule(DescriptionRun& run) {
  const std::string& name = run.request().name;
  if (const XmlNode* node = run.domain().child("name"))
    run.set_text(*node, name, "names are unique on a host");
  else
    run.insert_child(run.domain(), "<name>" + xml_escaped_text(name) + "</name>", "name", name,
                     "a domain must have a name");
}

void clone_uuid(DescriptionRun& run) {
  const std::string& uuid = run.result().uuid;
  if (const XmlNode* node = run.domain().child("uuid"))
    run.set_text(*node, uuid, "UUIDs are unique");
  else
    run.insert_child(run.domain(), "<uuid>" + uuid + "</uuid>", "uuid", uuid,
                     "so that it is known before the domain is defined");
  for (const XmlNode* node : run.select({"hwuuid"}))
    run.set_text(*node, run.renewed_uuid(std::string(trimmed(node->text))), "the guest sees it as its machine's UUID");
}

void clone_title(DescriptionRun& run) {
  for (const XmlNode* node : run.select({"title"}))
    run.remove(*node, "tools show it instead of the name");
}

void clone_genid(DescriptionRun& run) {
  for (const XmlNode* node : run.select({"genid"}))
    if (const std::string old(trimmed(node->text)); !old.empty())
      run.set_text(*node, run.renewed_uuid(old), "the guest learns from it that it was cloned");
}

void clone_sysinfo(DescriptionRun& run) {
  for (const XmlNode* sysinfo : run.select({"sysinfo"}))
    for (const char* table : {"system", "baseBoard", "chassis"})
      for (const XmlNode* node : sysinfo->all(table))
        for (const XmlNode* entry : node->all("entry")) {
          const std::string name = entry->attribute("name"), old(trimmed(entry->text));
          if (name == "uuid")
            run.set_text(*entry, run.result().uuid, "libvirt wants it to be the domain's");
          else if ((name == "serial" || name == "asset") && !run.request().keep_serials)
            run.set_text(*entry, run.renewed_serial(old), "inventories tell machines apart by it");
        }
}

void clone_oem_strings(DescriptionRun& run) {
  const auto words = run.renewed_words();
  auto renew = [&](const XmlNode& entry) {
    const std::string text = with_words(entry.text, words);
    if (text != entry.text)
      run.set_text(entry, text, "it holds an identity of the source");
    else if (entry.find("file") != nullptr || !trimmed(text).empty())
      run.warn(entry, "the guest reads this text; whether it names the source's guest can't be seen from outside");
  };
  for (const XmlNode* sysinfo : run.select({"sysinfo"})) {
    if (run.request().keep_serials)
      return;
    for (const XmlNode* strings : sysinfo->all("oemStrings"))
      for (const XmlNode* entry : strings->all("entry"))
        renew(*entry);
    for (const XmlNode* entry : sysinfo->all("entry")) // type='fwcfg'
      renew(*entry);
  }
}

void clone_metadata(DescriptionRun& run) {
  // Elements by which a cloud or a manager knows one instance, by the start of their namespace.
  static constexpr std::pair<std::string_view, const char*> managers[] = {
      {"http://openstack.org/xmlns/libvirt/nova", "OpenStack"},
      {"http://ovirt.org/vm", "oVirt"},
      {"http://kubevirt.io", "KubeVirt"},
      {"http://opennebula.org/xmlns/libvirt", "OpenNebula"},
      {"http://cloudstack.apache.org", "CloudStack"},
      {"http://apache.org/cloudstack", "CloudStack"}};
  for (const XmlNode* node : run.select({"metadata"}))
    for (const auto& child : node->children) {
      const std::string space = child->name_space();
      for (const auto& [start, manager] : managers)
        if (space.rfind(start, 0) == 0) {
          run.remove(*child, std::string(manager) + " knows the source's instance by it");
          break;
        }
    }
}

void clone_seclabel(DescriptionRun& run) {
  for (const XmlNode* label : run.select({"seclabel"})) {
    const std::string type = label->attribute("type");
    if (type == "static")
      run.warn(*label, "the label is fixed: both machines run with it and can reach each other's files");
    if (!type.empty() && type != "dynamic")
      continue;
    for (const char* name : {"label", "imagelabel"}) // <baselabel> is what the user chose
      for (const XmlNode* node : label->all(name))
        run.remove(*node, "libvirt chose it for the running source");
  }
}

} // namespace kvmport
