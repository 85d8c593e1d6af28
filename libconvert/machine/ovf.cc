// SPDX-License-Identifier: Apache-2.0
#include "libconvert/machine/limits.h"
#include "libconvert/machine/manifest.h"
#include "libconvert/machine/ovf_envelope.h"
#include "libconvert/machine/paths.h"

namespace fs = std::filesystem;

namespace kvmport {
namespace {

/// The manifest beside `path` ("vm.ovf" → "vm.mf"), if there.
std::optional<Manifest> manifest_beside(const fs::path& path) {
  fs::path file = path;
  file.replace_extension(".mf");
  std::error_code ignored;
  if (!fs::exists(file, ignored))
    return std::nullopt;
  return parse_manifest(read_file(file, max_description), file.string());
}

} // namespace

Machine read_ovf(const fs::path& path, const ReadOptions& options) {
  const std::string text = read_file(path, max_description);
  const auto document = parse_xml(text, path.string());
  const auto manifest = manifest_beside(path);
  if (manifest) {
    const auto own = manifest->find(path.filename().string());
    if (own == manifest->end())
      throw manifest_mismatch(path.string(), "the manifest does not list it");
    if (digest_of(text, own->second) != own->second)
      throw manifest_mismatch(path.string(), "its digest differs");
  }
  const FindFile find = [&](const std::string& href, const std::string& what,
                            std::vector<std::string>& notes) -> std::optional<FilePiece> {
    const std::string plain = percent_decoded(href).value_or(href);
    FilePiece piece;
    for (const std::string& name : {href, plain}) {
      try {
        piece.path = resolve_file(path, name, what, options, notes);
        break;
      } catch (const Error& error) {
        if (error.code() != "DISK_MISSING")
          throw;
      }
    }
    if (piece.path.empty())
      return std::nullopt;
    piece.window.length = file_size(open_source(piece.path).get());
    if (manifest && !options.disk_paths.contains(href)) {
      auto entry = manifest->find(href);
      if (entry == manifest->end())
        entry = manifest->find(plain);
      if (entry == manifest->end())
        throw manifest_mismatch(href, "the manifest does not list it");
      piece.digest = entry->second;
    }
    return piece;
  };
  Machine machine = read_envelope(*document, path.string(), find, options);
  if (machine.name.empty())
    machine.name = path.stem().string();
  if (!manifest)
    machine.notes.push_back("there is no manifest: the files are not verified");
  return machine;
}

} // namespace kvmport
