// SPDX-License-Identifier: Apache-2.0
#include "libconvert/machine/limits.h"
#include "libconvert/machine/manifest.h"
#include "libconvert/machine/ovf_envelope.h"
#include "libconvert/machine/tar_index.h"

#include <algorithm>

namespace fs = std::filesystem;

namespace kvmport {
namespace {

bool has_extension(const std::string& name, std::string_view extension) {
  return name.rfind("._", 0) != 0 && name.size() > extension.size() &&
         lower(name.substr(name.size() - extension.size())) == extension;
}

/// An archive that is open, with its table of contents.
class Archive {
 public:
  explicit Archive(const fs::path& path) : path_(path), fd_(open_source(path)) {
    members_ = index_tar(fd_.get(), path.string(), notes_);
  }
  const std::vector<std::string>& notes() const { return notes_; }
  const fs::path& path() const { return path_; }

  const TarMember* find(const std::string& name) const {
    for (const TarMember& member : members_)
      if (member.name == name)
        return &member;
    return nullptr;
  }
  std::vector<const TarMember*> with_extension(std::string_view extension) const {
    std::vector<const TarMember*> found;
    for (const TarMember& member : members_)
      if (has_extension(member.name, extension))
        found.push_back(&member);
    return found;
  }
  std::string text(const TarMember& member) const {
    if (member.data.length > max_description)
      throw Error("DESCRIPTION_INVALID", path_.string() + ": " + printable(member.name) + " is larger than 16 MiB");
    std::string out(member.data.length, '\0');
    read_exact(fd_.get(), member.data.offset, std::as_writable_bytes(std::span(out)), path_.string());
    return out;
  }

 private:
  fs::path path_;
  UniqueFd fd_;
  std::vector<std::string> notes_;
  std::vector<TarMember> members_;
};

const TarMember& the_description(const Archive& archive) {
  const auto found = archive.with_extension(".ovf");
  if (found.empty())
    throw Error("DESCRIPTION_INVALID", archive.path().string() + " is a tar archive without an .ovf description");
  if (found.size() > 1)
    throw Error("DESCRIPTION_INVALID", archive.path().string() + " holds several .ovf descriptions",
                printable(found[0]->name, 80) + ", " + printable(found[1]->name, 80));
  return *found.front();
}

/// The archive's manifest, its own claims about the description and about absent files checked.
std::optional<Manifest> checked_manifest(const Archive& archive, const TarMember& description,
                                         const std::string& text) {
  const auto found = archive.with_extension(".mf");
  if (found.empty())
    return std::nullopt;
  if (found.size() > 1)
    throw Error("DESCRIPTION_INVALID", archive.path().string() + " holds several manifests");
  const Manifest manifest = parse_manifest(archive.text(*found.front()), found.front()->name);
  for (const auto& entry : manifest)
    if (archive.find(entry.first) == nullptr)
      throw manifest_mismatch(entry.first, "the manifest lists it, but the archive does not hold it");
  const auto own = manifest.find(description.name);
  if (own == manifest.end())
    throw manifest_mismatch(description.name, "the manifest does not list it");
  if (digest_of(text, own->second) != own->second)
    throw manifest_mismatch(description.name, "its digest differs");
  return manifest;
}

} // namespace

Machine read_ova(const fs::path& path, const ReadOptions& options) {
  const Archive archive(path);
  const TarMember& description = the_description(archive);
  const std::string text = archive.text(description);
  const auto manifest = checked_manifest(archive, description, text);
  const auto document = parse_xml(text, path.string() + ": " + printable(description.name, 80));
  const FindFile find = [&](const std::string& href, const std::string& what,
                            std::vector<std::string>&) -> std::optional<FilePiece> {
    if (const auto named = options.disk_paths.find(href); named != options.disk_paths.end())
      return FilePiece{fs::absolute(named->second), {0, file_size(open_source(named->second).get())}, {}};
    const TarMember* member = archive.find(href);
    if (const auto plain = percent_decoded(href); member == nullptr && plain)
      member = archive.find(*plain);
    if (member == nullptr) {
      if (href.find("://") != std::string::npos || href.find('/') != std::string::npos)
        throw Error("PATH_NOT_ALLOWED", what + " is not a member of the archive: " + printable(href));
      return std::nullopt;
    }
    if (member->data.length == 0)
      throw Error("DISK_TRUNCATED", what + ": " + printable(href) + " is empty");
    FilePiece piece{fs::absolute(path), member->data, {}};
    if (manifest) {
      const auto entry = manifest->find(member->name);
      if (entry == manifest->end())
        throw manifest_mismatch(member->name, "the manifest does not list it");
      piece.digest = entry->second;
    }
    return piece;
  };
  Machine machine = read_envelope(*document, path.string(), find, options);
  machine.source_type = "ova";
  if (machine.name.empty())
    machine.name = path.stem().string();
  machine.notes.insert(machine.notes.end(), archive.notes().begin(), archive.notes().end());
  if (!manifest)
    machine.notes.push_back("there is no manifest: the files are not verified");
  if (!archive.with_extension(".cert").empty())
    machine.notes.push_back("the archive is signed; the signature is not checked");
  return machine;
}

} // namespace kvmport
