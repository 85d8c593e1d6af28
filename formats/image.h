// SPDX-License-Identifier: Apache-2.0
// Disk images: one interface to read any format, one to write. All offsets and sizes are bytes of the guest's disk
// unless a name says "file" or "host". Images are hostile: a reader checks every number against the file before use.
#pragma once

#include "base/bytes.h"
#include "base/events.h"
#include "base/file.h"

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace kvmport {

struct Range {
  std::uint64_t offset = 0, length = 0;
  std::uint64_t end() const { return offset + length; }
  bool operator==(const Range&) const = default;
};

enum class ExtentKind {
  data,        ///< must be read
  zero,        ///< reads as zeros, and the format says so
  unallocated, ///< reads as zeros because nothing was ever written there (in no layer of a chain)
};

struct Extent {
  Range range;
  ExtentKind kind = ExtentKind::data;
  bool operator==(const Extent&) const = default;
};

/// Guest bytes that lie verbatim (not compressed, not encrypted) in a host file.
struct FileRange {
  int fd = -1; ///< borrowed from the image
  std::uint64_t offset = 0, length = 0;
};

/// What `kvm-v2v info` prints.
struct ImageInfo {
  std::string format;  ///< "raw", "qcow2", "vmdk", "vdi", "vhd", "vhdx"
  std::string variant; ///< "v3", "streamOptimized", "dynamic", "differencing", …; may be empty
  std::uint64_t virtual_size = 0;
  std::uint32_t logical_sector = 512;       ///< 512 or 4096
  std::uint64_t block_size = 0;             ///< cluster, grain or block in bytes; 0 when the format has none
  std::vector<std::filesystem::path> files; ///< every host file that holds its data, parents included, nearest first
  std::vector<std::string> notes;           ///< oddities that were accepted ("dirty bit set", "log replayed in memory")
  std::map<std::string, std::string> details; ///< format specific: "compression", "backing_file", "subformat", …
};

/// A readable disk. Every method is const and safe from several threads at once.
class Image {
 public:
  virtual ~Image() = default;
  virtual std::uint64_t size() const = 0;
  virtual ImageInfo info() const = 0;
  /// The extents that cover `range` exactly, in order, without gaps, neighbours of one kind merged as far as is cheap.
  virtual std::vector<Extent> extents(Range range) const = 0;
  /// Fills `out` from `offset`; offset+out.size() must be ≤ size(). Bytes that the file should hold and does not are
  /// Error DISK_TRUNCATED, never silent zeros.
  virtual void read(std::uint64_t offset, std::span<std::byte> out) const = 0;
  /// Where the bytes from `range.offset` on lie verbatim in a host file: a prefix of `range`, or nothing.
  virtual std::optional<FileRange> file_range(Range range) const;
};

/// A disk that can be changed in place.
class WritableImage : public Image {
 public:
  virtual void write(std::uint64_t offset, ByteSpan data) = 0;
};

/// Grows a new image. write, zero and read are safe from several threads as long as no two touch the same bytes.
/// What is never written reads as zeros. Until finish() the file on disk is not a valid image.
class ImageWriter {
 public:
  virtual ~ImageWriter() = default;
  virtual std::uint64_t size() const = 0;
  /// The unit in which it allocates (cluster); writes that are aligned to it are cheapest. 4096 for raw.
  virtual std::uint64_t block_size() const = 0;
  virtual void write(std::uint64_t offset, ByteSpan data) = 0;
  virtual void zero(Range range) = 0;
  virtual void read(std::uint64_t offset, std::span<std::byte> out) = 0;
  /// True when the writer knows, without reading any data, that `range` reads as zeros. Called while nothing is
  /// written.
  virtual bool known_zero(Range range) const;
  /// Makes all that was written so far durable and returns what changed in the writer's own tables since the last
  /// checkpoint (may be empty). Called by one thread while no write is under way.
  virtual Bytes checkpoint() = 0;
  /// Before the first write on an existing partial file: puts back the state of checkpoints that were kept, in order.
  virtual void restore(const std::vector<Bytes>& checkpoints) = 0;
  /// Writes the tables, syncs. Afterwards the file is a complete image and the writer only serves read().
  virtual void finish() = 0;
};

struct OpenOptions {
  std::string format; ///< empty: probe by content
  /// Directories below which backing files, extents and parents may lie, besides the image's own directory.
  std::vector<std::filesystem::path> allowed_directories;
  /// Byte range of `path` that holds the image (a member of a tar); length 0: to the end of the file.
  Range window;
};

/// Opens `path` by its content (or options.format). Errors: FORMAT_UNKNOWN, FORMAT_UNSUPPORTED, IMAGE_ENCRYPTED,
/// IMAGE_CORRUPT, DISK_TRUNCATED, PARENT_MISSING, PARENT_MISMATCH, PATH_NOT_ALLOWED, CHAIN_LOOP, ….
std::unique_ptr<Image> open_image(const std::filesystem::path& path, const OpenOptions& options = {});

/// The format that the content shows ("raw" when none does); Error FORMAT_AMBIGUOUS when two match.
std::string probe_format(const std::filesystem::path& path, const OpenOptions& options = {});

enum class Compression { none, zlib, zstd };

struct CreateOptions {
  std::string format = "qcow2"; ///< "raw" or "qcow2"
  std::uint64_t size = 0;       ///< virtual size in bytes; qcow2 rounds it up to a multiple of 512
  Compression compression = Compression::none;
  std::uint64_t cluster_size = 65536;
  bool resume = false; ///< true: the file exists; restore() follows
};

/// Creates (or, with resume, opens) the file `path` to be filled.
std::unique_ptr<ImageWriter> create_image(const std::filesystem::path& path, const CreateOptions& options);

} // namespace kvmport
