// SPDX-License-Identifier: Apache-2.0
// Changes a few bytes of a qcow2 file in place: a copy of ours that nobody else uses. Where a cluster is the file's own
// it is overwritten; where it is compressed, shared, zero or the backing file's, a new one is put at the end of the
// file. Layout: QEMU's docs/interop/qcow2.rst, "Host cluster management" and "Cluster mapping".
#pragma once

#include "formats/image.h"

#include <filesystem>
#include <memory>
#include <string>

namespace kvmport {

/// One thread at a time. Until finish() the file is inconsistent.
class Qcow2Editor {
 public:
  /// What such a file has that can't be edited here ("internal snapshots"); empty: it can be edited.
  static std::string unsupported(const std::filesystem::path& path);

  /// Errors: those of opening, FORMAT_UNSUPPORTED with unsupported().
  explicit Qcow2Editor(const std::filesystem::path& path);
  ~Qcow2Editor();
  Qcow2Editor(const Qcow2Editor&) = delete;
  Qcow2Editor& operator=(const Qcow2Editor&) = delete;

  /// Puts `data` at `offset`. `before`: the disk as this file shows it (backing file included); the rest of a new
  /// cluster is taken from there. Errors: IMAGE_CORRUPT for tables that lead out of the file, DISK_FULL, IO_ERROR.
  void write(std::uint64_t offset, ByteSpan data, const Image& before);
  /// Writes the tables; the file is complete and durable.
  void finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Creates `path`: an empty qcow2 of `size` bytes over the backing file `backing`, which is written into it as it is
/// (relative to the directory of `path`, or absolute), of the format `backing_format`. Errors: FILE_EXISTS,
/// FORMAT_UNSUPPORTED when the name is too long.
void create_qcow2_over(const std::filesystem::path& path, std::uint64_t size, const std::string& backing,
                       const std::string& backing_format);

} // namespace kvmport
