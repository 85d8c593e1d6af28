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
  std::string name;         ///< overrides the machine's name
};

/// `paths`: one description (.vmx .ovf .ova .xml .vbox, told by content) or one or more disk images. Refuses a running
/// or suspended source and an incomplete snapshot chain by name. A gzip'd disk is unpacked to an unnamed file in the
/// temp directory.
Source open_source_machine(const std::vector<std::filesystem::path>& paths, const SourceOptions& options,
                           EventSink& sink);

/// Starts checking the manifest digests of `machine`'s files; returns a function that waits and throws
/// MANIFEST_MISMATCH. It reads the files once, beside the copy. Nothing to check: returns a function that does nothing.
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
