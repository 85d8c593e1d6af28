// SPDX-License-Identifier: Apache-2.0
// Opens what the user named on the command line: a Machine and one readable Image per disk, nothing of it ever written.
#pragma once

#include "libconvert/machine/machine.h"

#include <functional>
#include <memory>
#include <vector>

namespace kvmport {

/// An opened source. Images borrow nothing from the machine and are safe from several threads.
struct Source {
  Machine machine;
  std::vector<std::unique_ptr<Image>> images; ///< one per machine.disks, same order
};

struct SourceOptions {
  ReadOptions read;
  std::string input_format; ///< for bare disks: overrides probing
};

/// What a file is, by its content.
enum class SourceKind { disk, vmx, ovf, ova, libvirt, vbox };

/// Errors: DESCRIPTION_UNSUPPORTED for XML of another kind and for packed archives (.tar.gz, .zip), which have to be
/// unpacked first.
SourceKind source_kind(const std::filesystem::path& path);

/// The machine that a description tells of, its disks not opened. Error DESCRIPTION_UNSUPPORTED for a disk image.
Machine read_machine(const std::filesystem::path& path, const ReadOptions& options = {});

/// `paths`: one description (.vmx .ovf .ova .xml .vbox, told by content) or one or more disk images. Refuses a running
/// or suspended source and an incomplete snapshot chain by name (SOURCE_RUNNING, SOURCE_SUSPENDED,
/// SNAPSHOT_CHAIN_INCOMPLETE). A gzip'd disk and a disk in chunks are unpacked to an unnamed file in the temp directory
/// ($TMPDIR), which a note tells.
///
/// Bare disks: the machine is called like the first file, has one processor and no network card, memory is 0 (the
/// target chooses), firmware and controllers are unknown; with `input_format` no file is taken for a description.
Source open_source_machine(const std::vector<std::filesystem::path>& paths, const SourceOptions& options,
                           EventSink& sink);

/// The same for a machine that is known already: `machine.disks` name their files and formats.
Source open_known_machine(const Machine& machine, const SourceOptions& options, EventSink& sink);

/// Error SOURCE_RUNNING when another program holds `path` open for writing with QEMU's image locks (bytes 100–163 and
/// 200–263 of the file: QEMU, qemu-nbd, libguestfs). Programs that take no locks can't be seen.
void check_not_locked(const std::filesystem::path& path);

/// Starts checking the manifest digests of `machine`'s files; returns a function that waits and throws
/// MANIFEST_MISMATCH. It reads the files once, beside the copy; `stop` must outlive the function. Nothing to check:
/// returns a function that does nothing. When the last copy of the function goes, the reading stops.
std::function<void()> verify_digests(const Machine& machine, const StopToken& stop);

/// Size, mtime and inode of every host file of the source, so that a change during the run is noticed (Error
/// SOURCE_CHANGED).
class SourceGuard {
 public:
  explicit SourceGuard(const Source& source);
  void check() const;

 private:
  struct Stamp {
    std::filesystem::path path;
    std::uint64_t size, inode, device;
    std::int64_t mtime_ns;
  };
  std::vector<Stamp> stamps_;
};

} // namespace kvmport
