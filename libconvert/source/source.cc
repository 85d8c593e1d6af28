// SPDX-License-Identifier: Apache-2.0
#include "libconvert/source/source.h"

#include "formats/readers.h"
#include "libconvert/machine/text.h"
#include "libconvert/source/unpack.h"

#include <algorithm>

namespace fs = std::filesystem;

namespace kvmport {
namespace {

/// A disk that was described but never written (OVF without fileRef).
class BlankImage final : public Image {
 public:
  explicit BlankImage(std::uint64_t size) : size_(size) {}
  std::uint64_t size() const override { return size_; }
  ImageInfo info() const override {
    ImageInfo info;
    info.format = "raw";
    info.variant = "blank";
    info.virtual_size = size_;
    return info;
  }
  std::vector<Extent> extents(Range range) const override {
    check(range.offset, range.length);
    if (range.length == 0)
      return {};
    return {{range, ExtentKind::unallocated}};
  }
  void read(std::uint64_t offset, std::span<std::byte> out) const override {
    check(offset, out.size());
    std::fill(out.begin(), out.end(), std::byte{0});
  }

 private:
  void check(std::uint64_t offset, std::uint64_t length) const {
    if (offset > size_ || length > size_ - offset)
      throw Error("IMAGE_CORRUPT", "a read beyond the end of a blank disk");
  }
  std::uint64_t size_;
};

Machine read_description(SourceKind kind, const fs::path& path, const ReadOptions& options) {
  switch (kind) {
  case SourceKind::vmx:
    return read_vmx(path, options);
  case SourceKind::ovf:
    return read_ovf(path, options);
  case SourceKind::ova:
    return read_ova(path, options);
  case SourceKind::libvirt:
    return read_libvirt_xml(path, options);
  case SourceKind::vbox:
    return read_vbox(path, options);
  case SourceKind::disk:
    break;
  }
  return {};
}

Machine bare_machine(const std::vector<fs::path>& paths) {
  Machine machine;
  machine.source_type = "disk";
  machine.name = paths.front().stem().string();
  if (machine.name.empty())
    machine.name = "machine";
  for (const fs::path& path : paths) {
    MachineDisk disk;
    disk.path = fs::absolute(path);
    disk.unit = static_cast<unsigned>(machine.disks.size());
    machine.disks.push_back(disk);
  }
  name_source_disks(machine);
  return machine;
}

std::unique_ptr<Image> open_disk(const MachineDisk& disk, const SourceOptions& options, const std::string& format,
                                 EventSink& sink, std::vector<std::string>& notes) {
  if (disk.path.empty())
    return std::make_unique<BlankImage>(disk.capacity);
  OpenOptions open;
  open.format = format;
  open.allowed_directories = options.read.allowed_directories;
  open.window = disk.window;
  if (!disk.gzip && disk.more_pieces.empty())
    return open_image(disk.path, open);
  const fs::path temp = fs::temp_directory_path();
  UniqueFd fd = unpack_disk(disk, temp, sink);
  notes.push_back(disk.path.filename().string() + (disk.gzip ? " was unpacked" : " was joined from its chunks") +
                  " in " + temp.string());
  // The bytes lie in the temporary file; names in them count from the disk's own directory.
  open.window = {};
  return open_format(SourceFile::from_fd(std::move(fd), disk.path), format, OpenContext(open));
}

/// A disk's error in the words of its machine: what is a missing parent to the image is a broken chain of snapshots.
[[noreturn]] void rethrow_for(const Error& error, const MachineDisk& disk, bool described) {
  if (described && (error.code() == "PARENT_MISSING" || error.code() == "PARENT_MISMATCH"))
    throw Error("SNAPSHOT_CHAIN_INCOMPLETE",
                "the snapshot chain of " + disk.path.filename().string() + " is incomplete: " + error.summary(),
                error.why(), "copy all files of the machine, snapshots and base disks included");
  throw error;
}

void check_running(const Source& source) {
  std::vector<fs::path> files;
  for (const MachineDisk& disk : source.machine.disks)
    files.push_back(disk.path);
  for (const auto& image : source.images)
    for (const fs::path& file : image->info().files)
      files.push_back(file);
  std::sort(files.begin(), files.end());
  files.erase(std::unique(files.begin(), files.end()), files.end());
  for (const fs::path& file : files)
    if (!file.empty())
      check_not_locked(file);
}

/// Opens the disks of `machine`. A described disk has a format of its own.
Source open_disks(Machine machine, bool described, const SourceOptions& options, EventSink& sink) {
  Source source;
  source.machine = std::move(machine);
  source.machine.name = clean_utf8(source.machine.name);
  for (MachineDisk& disk : source.machine.disks) {
    const std::string& format = described ? disk.format : options.input_format;
    try {
      if (!disk.path.empty()) // before the image is read: a running machine changes it
        check_not_locked(disk.path);
      source.images.push_back(open_disk(disk, options, format, sink, source.machine.notes));
    } catch (const Error& error) {
      rethrow_for(error, disk, described);
    }
    const ImageInfo info = source.images.back()->info();
    if (disk.capacity == 0)
      disk.capacity = source.images.back()->size();
    if (disk.logical_sector == 512 && info.logical_sector > 512)
      disk.logical_sector = disk.physical_sector = info.logical_sector;
  }
  check_running(source);
  for (const std::string& note : source.machine.notes)
    sink.message(EventSink::Level::info, "SOURCE_NOTE", note);
  return source;
}

} // namespace

Machine read_machine(const fs::path& path, const ReadOptions& options) {
  const SourceKind kind = source_kind(path);
  if (kind == SourceKind::disk)
    throw Error("DESCRIPTION_UNSUPPORTED", path.string() + " describes no machine", {},
                "name a .vmx, .ovf, .ova, .vbox or libvirt .xml");
  return read_description(kind, path, options);
}

Source open_known_machine(const Machine& machine, const SourceOptions& options, EventSink& sink) {
  return open_disks(machine, true, options, sink);
}

Source open_source_machine(const std::vector<fs::path>& paths, const SourceOptions& options, EventSink& sink) {
  if (paths.empty())
    throw Error("USAGE", "no source is named");
  SourceKind kind = SourceKind::disk;
  if (options.input_format.empty())
    for (const fs::path& path : paths) {
      kind = source_kind(path);
      if (kind != SourceKind::disk && paths.size() > 1)
        throw Error("USAGE", path.string() + " is a machine description: it can't be joined with other sources", {},
                    "give one description, or one or more disk images");
    }
  const bool described = kind != SourceKind::disk;
  return open_disks(described ? read_description(kind, paths.front(), options.read) : bare_machine(paths), described,
                    options, sink);
}

} // namespace kvmport
