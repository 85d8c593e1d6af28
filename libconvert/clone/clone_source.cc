// SPDX-License-Identifier: Apache-2.0
#include "libconvert/clone/clone_source.h"

#include "base/file.h"
#include "libconvert/host/connection.h"
#include "libconvert/machine/text.h"
#include "libconvert/machine/xml_util.h"

#include <set>

namespace fs = std::filesystem;

namespace kvmport {
namespace {

std::string disk_path(const XmlNode& disk) {
  const XmlNode* source = disk.child("source");
  if (source == nullptr)
    return {};
  return source->attribute(source->find("dev") != nullptr ? "dev" : "file");
}

/// The disks of a description, those that the reader of machines takes, in its order.
std::vector<const XmlNode*> hard_disks(const XmlNode& domain) {
  std::vector<const XmlNode*> disks;
  if (const XmlNode* devices = domain.child("devices"))
    for (const XmlNode* disk : devices->all("disk"))
      if (const std::string device = disk->attribute("device"); device != "cdrom" && device != "floppy")
        disks.push_back(disk);
  return disks;
}

/// Descriptions of domains in a directory. What is no such description says nothing of identities.
void add_directory(TakenIdentities& taken, const fs::path& directory, const std::set<fs::path>& except) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(directory, error))
    try {
      if (entry.path().extension() == ".xml" && entry.is_regular_file(error) && !except.contains(entry.path()) &&
          source_kind(entry.path()) == SourceKind::libvirt)
        taken.add_domain(read_file(entry.path(), max_description), entry.path().string());
    } catch (const Error&) { // not ours to judge
    }
}

void fill_disks(CloneSource& clone) {
  const XmlEditor description(clone.xml, clone.file);
  const auto described = hard_disks(description.root());
  if (described.size() != clone.source.machine.disks.size())
    throw Error("DESCRIPTION_UNSUPPORTED", clone.file + " has disks that can't be told apart");
  for (const XmlNode* disk : described) {
    const XmlNode* target = disk->child("target");
    const bool shared = disk->child("readonly") != nullptr || disk->child("shareable") != nullptr;
    clone.disks.push_back({target != nullptr ? target->attribute("dev") : "", disk_path(*disk), shared});
    if (shared)
      clone.notes.push_back("disk " + printable(clone.disks.back().target, 40) +
                            " is readonly or shareable: the clone uses the same");
  }
}

} // namespace

CloneSource open_clone_source(const std::vector<fs::path>& paths, const SourceOptions& options,
                              const CloneNeighbours& neighbours, EventSink& sink) {
  CloneSource clone;
  clone.file = paths.front().string();
  const bool description = options.input_format.empty() && source_kind(paths.front()) != SourceKind::disk;
  if (description && source_kind(paths.front()) != SourceKind::libvirt)
    throw Error("DESCRIPTION_UNSUPPORTED", clone.file + " describes a machine of another hypervisor", {},
                "bring it to KVM with kvm-v2v convert first");
  clone.source = open_source_machine(paths, options, sink);
  name_source_disks(clone.source.machine);
  clone.name = clone.source.machine.name;
  if (clone.source.images.empty())
    throw Error("DISK_MISSING", "the machine " + clone.name + " has no hard disk");
  const fs::path absolute = fs::absolute(paths.front());
  if (description) {
    clone.xml = read_file(paths.front(), max_description);
    fill_disks(clone);
    add_directory(clone.taken, absolute.parent_path(), {absolute});
  } else {
    for (std::size_t i = 0; i < clone.source.images.size(); i++)
      clone.disks.push_back({"sd" + disk_letters(static_cast<unsigned>(i)), {}, false});
  }
  const fs::path first = clone.source.machine.disks.front().path;
  const fs::path output =
      fs::absolute(neighbours.output.empty() ? fs::absolute(first).parent_path() : neighbours.output)
          .lexically_normal();
  std::set<fs::path> except{absolute};
  for (const std::string& name : neighbours.replaced)
    except.insert(output / name);
  if (!description || output != absolute.lexically_normal().parent_path())
    add_directory(clone.taken, output, except);
  return clone;
}

CloneSource open_clone_source(const LibvirtConnection& connection, const std::string& domain,
                              const SourceOptions& options, const CloneNeighbours& neighbours, EventSink& sink) {
  const std::string xml = connection.shut_off_domain(domain);
  SourceOptions allowed = options;
  const XmlEditor description(xml, domain);
  std::vector<std::string> files;
  for (const XmlNode* disk : hard_disks(description.root()))
    files.push_back(disk_path(*disk));
  if (const XmlNode* os = description.root().child("os"); os != nullptr && os->child("nvram") != nullptr)
    files.push_back(std::string(trimmed(os->child("nvram")->text)));
  for (const fs::path file : files)
    if (file.is_absolute())
      allowed.read.allowed_directories.push_back(file.parent_path());
  const TempDir directory;
  const fs::path file = directory.path() / "domain.xml";
  write_file_durably(file, xml);
  CloneSource clone = open_clone_source({file}, allowed, neighbours, sink);
  clone.file = "the domain " + printable(domain, 200);
  for (const std::string& other : connection.all_domains())
    if (XmlEditor(other, "a domain").root().child("name")->text != description.root().child("name")->text)
      clone.taken.add_domain(other, "a domain of the connection");
  for (const std::string& snapshot : connection.snapshots(domain))
    clone.notes.push_back("the snapshot " + printable(snapshot, 200) + " is not cloned");
  return clone;
}

} // namespace kvmport
