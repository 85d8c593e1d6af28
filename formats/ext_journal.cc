// SPDX-License-Identifier: Apache-2.0
#include "formats/ext_journal.h"

#include "formats/ext2_io.h"

#include <algorithm>
#include <array>
#include <optional>

namespace kvmport {
namespace {

// journal.rst, "Block Header" to "Commit Block": all numbers are big-endian.
constexpr std::uint32_t jbd2_magic = 0xc03b3998;
enum BlockType : std::uint32_t { descriptor = 1, commit = 2, superblock_v1 = 3, superblock_v2 = 4, revoke = 5 };
constexpr std::size_t header_size = 12, tail_size = 4, revoke_header_size = 16, journal_super_size = 1024;
constexpr std::uint32_t compat_checksum = 1;
constexpr std::uint32_t incompat_64bit = 2, incompat_async_commit = 4, incompat_csum_v2 = 8, incompat_csum_v3 = 16,
                        incompat_fast_commit = 32;
constexpr std::uint32_t known_incompat = 63;
constexpr std::uint16_t flag_escaped = 1, flag_same_uuid = 2, flag_last = 8;
constexpr std::uint8_t checksum_crc32 = 1, checksum_crc32c = 4;
constexpr std::uint32_t fewest_blocks = 1024, default_fast_commit_blocks = 256;
constexpr std::uint16_t fast_commit_head = 9;
/// Bytes of the blocks that say where the journal lies, several times those of the largest.
constexpr std::uint64_t most_inode_blocks = 256U << 20;

[[noreturn]] void corrupt(const std::string& why) {
  throw Error("FILESYSTEM_JOURNAL_CORRUPT", "the journal of an ext filesystem is damaged", why,
              "check the filesystem with e2fsck on a copy of the disk");
}
[[noreturn]] void unsupported(const std::string& why) {
  throw Error("FILESYSTEM_JOURNAL_UNSUPPORTED", "the journal of an ext filesystem can't be replayed", why,
              "shut the machine down cleanly, so that its filesystems are unmounted");
}

std::uint32_t crc32c(std::uint32_t seed, ByteSpan bytes) {
  return ::ext2fs_crc32c_le(seed, reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size());
}
std::uint32_t crc32c_be_number(std::uint32_t seed, std::uint32_t number) {
  std::array<std::byte, 4> bytes{};
  store_be<std::uint32_t>(bytes, 0, number);
  return crc32c(seed, bytes);
}
/// crc32c of a structure whose own 32-bit checksum at `field` counts as zero.
std::uint32_t crc32c_without(std::uint32_t seed, ByteSpan bytes, std::size_t field) {
  const std::array<std::byte, 4> zero{};
  return crc32c(crc32c(crc32c(seed, bytes.first(field)), zero), bytes.subspan(field + 4));
}

/// Consecutive blocks of the journal's inode that lie in consecutive blocks of the filesystem.
struct Run {
  std::uint64_t logical, physical, count;
};

/// What libext2fs tells about the journal.
struct Location {
  std::uint32_t block_size = 0, first_data_block = 0;
  std::uint64_t filesystem_blocks = 0; ///< that have room in the range; an online resize may be in the journal
  std::uint64_t length = 0;            ///< of the journal's file, in blocks
  std::vector<Run> runs;

  std::uint64_t physical(std::uint64_t logical) const {
    auto run = std::upper_bound(runs.begin(), runs.end(), logical, [](auto n, const Run& r) { return n < r.logical; });
    if (run == runs.begin() || logical - (--run)->logical >= run->count)
      corrupt("its file has a hole at block " + std::to_string(logical));
    return run->physical + (logical - run->logical);
  }
};

struct RunCollector {
  Location& location;
  std::uint64_t most;
  bool bad = false;

  static int visit(ext2_filsys, blk64_t* block, e2_blkcnt_t logical, blk64_t, int, void* self) noexcept {
    auto& me = *static_cast<RunCollector*>(self);
    if (logical < 0 || static_cast<std::uint64_t>(logical) >= me.most)
      return BLOCK_ABORT; // the journal's superblock is read before it is refused as too large
    me.bad = !me.add(static_cast<std::uint64_t>(logical), *block);
    return me.bad ? BLOCK_ABORT : 0;
  }
  bool add(std::uint64_t logical, std::uint64_t block) {
    auto& runs = location.runs;
    const std::uint64_t next = runs.empty() ? 0 : runs.back().logical + runs.back().count;
    if (block < location.first_data_block || block >= location.filesystem_blocks || logical < next)
      return false;
    if (!runs.empty() && logical == next && block == runs.back().physical + runs.back().count)
      runs.back().count++;
    else
      runs.push_back({logical, block, 1});
    return true;
  }
};

/// Nothing when there is nothing to replay.
std::optional<Location> find_journal(const Image& disk, Range range, std::uint32_t most_blocks) {
  Ext2Handle handle = Ext2Handle::open(disk, range);
  handle.limit_reads(most_inode_blocks);
  ext2_filsys fs = handle.get();
  if (!ext2fs_has_feature_journal(fs->super) || !ext2fs_has_feature_journal_needs_recovery(fs->super))
    return std::nullopt;
  if (fs->super->s_journal_inum == 0)
    unsupported("it lies on another device");
  Location location{fs->blocksize, fs->super->s_first_data_block, range.length / fs->blocksize, 0, {}};
  ext2_inode inode{};
  if (::ext2fs_read_inode(fs, fs->super->s_journal_inum, &inode) != 0 || !LINUX_S_ISREG(inode.i_mode) ||
      inode.i_links_count == 0)
    corrupt("its inode is unusable");
  location.length = EXT2_I_SIZE(&inode) / location.block_size;
  RunCollector collector{location, most_blocks};
  if (::ext2fs_block_iterate3(fs, fs->super->s_journal_inum, BLOCK_FLAG_DATA_ONLY | BLOCK_FLAG_READ_ONLY, nullptr,
                              RunCollector::visit, &collector) != 0 ||
      collector.bad)
    corrupt("its inode names blocks that can't be its own");
  return location;
}

/// A block of the filesystem as a transaction holds it in the log.
struct Copy {
  std::uint64_t block;       ///< of the filesystem
  std::uint32_t log;         ///< block of the journal
  std::uint32_t transaction; ///< counted from the first in the log: sequence numbers wrap, this doesn't
  std::uint32_t checksum;
  bool escaped;
  bool revoked = false;
};

/// The journal, from its superblock to the end of what is committed.
class Journal {
 public:
  Journal(WritableImage& disk, Range range, Location location, std::uint32_t most_blocks)
      : disk_(disk), range_(range), where_(std::move(location)) {
    read_super(most_blocks);
  }
  JournalReplay replay();

 private:
  struct Revokes {
    std::uint32_t log, transaction;
  };
  struct Scan;

  bool checked() const { return (incompat_ & (incompat_csum_v2 | incompat_csum_v3)) != 0; }
  bool has(std::uint32_t feature) const { return (incompat_ & feature) != 0; }
  void read_super(std::uint32_t most_blocks);
  void read_areas();
  Bytes read_log(std::uint64_t block) const;
  bool tail_is_right(ByteSpan block) const;
  bool commit_is_right(ByteSpan block, std::uint32_t crc32) const;
  std::uint32_t tags_of(ByteSpan block, std::uint32_t log, std::uint32_t transaction);
  std::uint32_t after(std::uint64_t log) const {
    return static_cast<std::uint32_t>(log < last_ ? log : first_ + (log - last_) % (last_ - first_));
  }
  void scan();
  void scan_data(Scan& at, ByteSpan block);
  bool scan_commit(Scan& at, ByteSpan block);
  void apply_revokes();
  void apply_revoke_block(Revokes revokes, std::vector<std::uint32_t>& until);
  void check_copies() const;
  void write_copies();
  void mark_empty();
  void clear_needs_recovery();
  bool fast_commits_follow() const;

  WritableImage& disk_;
  const Range range_;
  const Location where_;
  Bytes super_;
  std::uint32_t compat_ = 0, incompat_ = 0, seed_ = 0;
  std::uint32_t first_ = 0, last_ = 0, start_ = 0; ///< blocks of the log: [first, last), and where it begins now
  std::uint32_t sequence_ = 0;                     ///< of the next transaction
  std::vector<Copy> copies_;
  std::vector<Revokes> revokes_;
  JournalReplay result_{true};
};

Bytes Journal::read_log(std::uint64_t block) const {
  Bytes bytes(where_.block_size);
  disk_.read(range_.offset + where_.physical(block) * where_.block_size, bytes);
  return bytes;
}

void Journal::read_super(std::uint32_t most_blocks) {
  super_ = read_log(0);
  const auto field = [&](std::size_t offset) { return load_be<std::uint32_t>(super_, offset); };
  const std::uint32_t type = field(4);
  if (field(0) != jbd2_magic || (type != superblock_v1 && type != superblock_v2) || field(12) != where_.block_size)
    corrupt("its superblock is none");
  last_ = field(16);
  first_ = field(20);
  sequence_ = field(24);
  start_ = field(28);
  if (type == superblock_v2) {
    compat_ = field(36);
    incompat_ = field(40);
  }
  if ((incompat_ & ~known_incompat) != 0)
    unsupported("it has features that are unknown here: " + std::to_string(incompat_ & ~known_incompat));
  if (last_ > most_blocks)
    unsupported("it has " + std::to_string(last_) + " blocks, at most " + std::to_string(most_blocks) +
                " are replayed");
  if (checked()) {
    const bool both = has(incompat_csum_v2) && has(incompat_csum_v3);
    if (both || (compat_ & compat_checksum) != 0 || std::to_integer<std::uint8_t>(super_[80]) != checksum_crc32c)
      corrupt("its superblock asks for checksums that exclude each other");
    if (crc32c_without(~0U, ByteSpan(super_).first(journal_super_size), 252) != field(252))
      corrupt("the checksum of its superblock is wrong");
    seed_ = crc32c(~0U, ByteSpan(super_).subspan(48, 16));
  }
  read_areas();
}

void Journal::read_areas() {
  if (last_ > where_.length || last_ < fewest_blocks)
    corrupt("its superblock claims " + std::to_string(last_) + " blocks of " + std::to_string(where_.length));
  if (has(incompat_fast_commit)) {
    const auto told = load_be<std::uint32_t>(super_, 84);
    const std::uint32_t fast = told != 0 ? told : default_fast_commit_blocks;
    if (fast < last_ && last_ - fast >= fewest_blocks)
      last_ -= fast; // what follows is the fast commit area (jbd2_journal_init_fc)
  }
  if (first_ == 0 || first_ >= last_ || (start_ != 0 && (start_ < first_ || start_ >= last_)))
    corrupt("its superblock names blocks outside of the log");
}

bool Journal::tail_is_right(ByteSpan block) const {
  const std::size_t at = block.size() - tail_size;
  return !checked() || crc32c_without(seed_, block, at) == load_be<std::uint32_t>(block, at);
}

/// `crc32`: of all blocks of the transaction before this one (v1).
bool Journal::commit_is_right(ByteSpan block, std::uint32_t crc32) const {
  const auto found = load_be<std::uint32_t>(block, 16);
  if (checked())
    return crc32c_without(seed_, block, 16) == found;
  if ((compat_ & compat_checksum) == 0)
    return true;
  const auto type = std::to_integer<std::uint8_t>(block[12]), size = std::to_integer<std::uint8_t>(block[13]);
  return (type == checksum_crc32 && size == 4 && found == crc32) || (type == 0 && size == 0 && found == 0);
}

/// Reads the tags of a descriptor block whose first data block is `log`; returns how many they are.
std::uint32_t Journal::tags_of(ByteSpan block, std::uint32_t log, std::uint32_t transaction) {
  // journal_tag_bytes() of the kernel: v2 tags are two bytes longer than what they hold.
  const std::size_t size =
      has(incompat_csum_v3) ? 16 : 8U + (has(incompat_csum_v2) ? 2 : 0) + (has(incompat_64bit) ? 4 : 0);
  const std::size_t end = block.size() - (checked() ? tail_size : 0);
  std::uint32_t count = 0;
  for (std::size_t at = header_size; at + size <= end;) {
    const auto flags = load_be<std::uint16_t>(block, at + 6);
    const std::uint64_t high = has(incompat_64bit) ? load_be<std::uint32_t>(block, at + 8) : 0;
    const std::uint32_t checksum =
        has(incompat_csum_v3) ? load_be<std::uint32_t>(block, at + 12) : load_be<std::uint16_t>(block, at + 4);
    copies_.push_back({high << 32 | load_be<std::uint32_t>(block, at), after(std::uint64_t{log} + count), transaction,
                       checksum, (flags & flag_escaped) != 0});
    count++;
    at += size + ((flags & flag_same_uuid) != 0 ? 0 : 16);
    if ((flags & flag_last) != 0)
      break;
  }
  return count;
}

/// Where the scan stands.
struct Journal::Scan {
  std::uint32_t log;                   ///< the next block
  std::uint64_t used = 0;              ///< blocks gone by
  std::uint32_t crc32 = ~0U;           ///< of this transaction's blocks so far (v1)
  std::uint64_t last_time = 0;         ///< of the last commit
  bool doubtful = false;               ///< a checksum was wrong; the commit block tells whether these blocks are stale
  bool interrupted = false;            ///< a commit with a wrong checksum was passed (asynchronous commits)
  std::size_t copies = 0, revokes = 0; ///< of the committed transactions

  void pass(std::uint64_t blocks) { used += blocks; }
};

/// A descriptor block and the data behind it.
void Journal::scan_data(Scan& at, ByteSpan block) {
  if (!tail_is_right(block))
    at.doubtful = true;
  const std::uint32_t count = tags_of(block, at.log, result_.transactions);
  at.pass(count);
  if (at.used > last_ - first_)
    return;
  if ((compat_ & compat_checksum) != 0) {
    const auto add = [&](ByteSpan bytes) {
      at.crc32 = ::ext2fs_crc32_be(at.crc32, reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size());
    };
    add(block);
    for (std::uint32_t i = 0; i < count; i++)
      add(read_log(after(std::uint64_t{at.log} + i)));
  }
  at.log = after(std::uint64_t{at.log} + count);
}

/// False when the log ends before this commit. Blocks of an older life of the journal may carry the right sequence
/// number by chance: those have an older time.
bool Journal::scan_commit(Scan& at, ByteSpan block) {
  const auto time = load_be<std::uint64_t>(block, 48);
  const bool right = !at.doubtful && commit_is_right(block, at.crc32);
  if (!right && time < at.last_time)
    return false;
  if (at.doubtful || at.interrupted || (!right && !has(incompat_async_commit)))
    corrupt("a checksum is wrong in transaction " + std::to_string(sequence_) + ", which was committed");
  at.interrupted = !right;
  at.last_time = time;
  at.crc32 = ~0U;
  if (right) {
    result_.transactions++;
    at.copies = copies_.size();
    at.revokes = revokes_.size();
  }
  return true;
}

void Journal::scan() {
  Scan at{start_};
  for (std::uint32_t sequence = sequence_;;) {
    if (at.used >= last_ - first_) {
      if (at.doubtful)
        break;
      corrupt("the log runs into its own beginning");
    }
    const Bytes block = read_log(at.log);
    if (load_be<std::uint32_t>(block, 0) != jbd2_magic || load_be<std::uint32_t>(block, 8) != sequence)
      break;
    const auto type = load_be<std::uint32_t>(block, 4);
    if (type != descriptor && type != commit && type != revoke)
      break;
    const std::uint32_t here = at.log;
    at.pass(1);
    at.log = after(std::uint64_t{here} + 1);
    if (type == descriptor) {
      scan_data(at, block);
    } else if (type == revoke) {
      at.doubtful = at.doubtful || !tail_is_right(block);
      revokes_.push_back({here, result_.transactions});
    } else if (scan_commit(at, block)) {
      sequence++;
      if (!at.interrupted)
        sequence_ = sequence;
    } else {
      break;
    }
  }
  copies_.resize(at.copies, Copy{});
  revokes_.resize(at.revokes);
}

/// `until`: for the first copy of each block, the transaction before which (and in which) it is revoked, plus one.
void Journal::apply_revoke_block(Revokes revokes, std::vector<std::uint32_t>& until) {
  const Bytes block = read_log(revokes.log);
  const auto end = load_be<std::uint32_t>(block, 12);
  if (end < revoke_header_size || end > block.size() - (checked() ? tail_size : 0))
    corrupt("a revoke block claims " + std::to_string(end) + " bytes");
  const std::size_t size = has(incompat_64bit) ? 8 : 4;
  for (std::size_t at = revoke_header_size; at + size <= end; at += size) {
    const std::uint64_t number = size == 8 ? load_be<std::uint64_t>(block, at) : load_be<std::uint32_t>(block, at);
    const auto first = std::lower_bound(copies_.begin(), copies_.end(), number,
                                        [](const Copy& copy, std::uint64_t n) { return copy.block < n; });
    if (first != copies_.end() && first->block == number) {
      auto& mark = until[static_cast<std::size_t>(first - copies_.begin())];
      mark = std::max(mark, revokes.transaction + 1);
    }
  }
}

/// A revoked block is not written from the transactions up to the one that revoked it ("Revocation Block").
void Journal::apply_revokes() {
  std::stable_sort(copies_.begin(), copies_.end(), [](const Copy& a, const Copy& b) { return a.block < b.block; });
  std::vector<std::uint32_t> until(copies_.size());
  for (const Revokes& revokes : revokes_)
    apply_revoke_block(revokes, until);
  for (std::size_t i = 0; i < copies_.size(); i++) {
    if (i != 0 && copies_[i].block == copies_[i - 1].block)
      until[i] = until[i - 1];
    copies_[i].revoked = copies_[i].transaction < until[i];
    result_.revoked += copies_[i].revoked ? 1 : 0;
  }
}

void Journal::check_copies() const {
  std::vector<Run> runs = where_.runs;
  std::sort(runs.begin(), runs.end(), [](const Run& a, const Run& b) { return a.physical < b.physical; });
  for (const Copy& copy : copies_) {
    auto run =
        std::upper_bound(runs.begin(), runs.end(), copy.block, [](auto n, const Run& r) { return n < r.physical; });
    const bool own = run != runs.begin() && copy.block - (--run)->physical < run->count;
    if (copy.block < where_.first_data_block || copy.block >= where_.filesystem_blocks || own)
      corrupt("it holds a copy of block " + std::to_string(copy.block) + ", which can't be");
    if (copy.revoked || !checked())
      continue;
    // Transactions are numbered from the first on; the checksum covers their number as the log has it.
    const std::uint32_t sequence = sequence_ - result_.transactions + copy.transaction;
    const std::uint32_t sum = crc32c(crc32c_be_number(seed_, sequence), read_log(copy.log));
    if ((has(incompat_csum_v3) ? sum : sum & 0xffff) != copy.checksum)
      corrupt("the checksum of its copy of block " + std::to_string(copy.block) + " is wrong");
  }
}

void Journal::write_copies() {
  for (std::size_t i = 0; i < copies_.size(); i++) {
    const Copy& copy = copies_[i];
    if (copy.revoked || (i + 1 < copies_.size() && copies_[i + 1].block == copy.block))
      continue; // of several the last counts; when that is revoked all are
    Bytes block = read_log(copy.log);
    if (copy.escaped)
      store_be<std::uint32_t>(block, 0, jbd2_magic);
    disk_.write(range_.offset + copy.block * where_.block_size, block);
    result_.blocks++;
  }
}

/// The next transaction gets a number that no block in the log carries, not even the uncommitted last one.
void Journal::mark_empty() {
  store_be<std::uint32_t>(super_, 24, sequence_ + 1);
  store_be<std::uint32_t>(super_, 28, 0);
  if (checked())
    store_be<std::uint32_t>(super_, 252, crc32c_without(~0U, ByteSpan(super_).first(journal_super_size), 252));
  disk_.write(range_.offset + where_.physical(0) * where_.block_size, super_);
}

/// Linux Documentation/filesystems/ext4/super.rst: little-endian, s_feature_incompat at 0x60, s_checksum at 0x3fc.
void Journal::clear_needs_recovery() {
  Bytes super(SUPERBLOCK_SIZE);
  disk_.read(range_.offset + SUPERBLOCK_OFFSET, super);
  store_le<std::uint32_t>(super, 0x60, load_le<std::uint32_t>(super, 0x60) & ~EXT3_FEATURE_INCOMPAT_RECOVER);
  if ((load_le<std::uint32_t>(super, 0x64) & EXT4_FEATURE_RO_COMPAT_METADATA_CSUM) != 0)
    store_le<std::uint32_t>(super, 0x3fc, crc32c(~0U, ByteSpan(super).first(0x3fc)));
  disk_.write(range_.offset + SUPERBLOCK_OFFSET, super);
}

/// Linux fs/ext4/fast_commit.c: the area begins with a HEAD tag (u16 tag, u16 length, u32 features, u32 transaction).
bool Journal::fast_commits_follow() const {
  if (!has(incompat_fast_commit) || last_ + std::uint64_t{1} >= where_.length)
    return false;
  const Bytes block = read_log(last_ + std::uint64_t{1});
  return load_le<std::uint16_t>(block, 0) == fast_commit_head && load_le<std::uint32_t>(block, 8) == sequence_;
}

JournalReplay Journal::replay() {
  if (start_ != 0) {
    scan();
    result_.fast_commits = fast_commits_follow();
    apply_revokes();
    check_copies();
    write_copies();
  }
  mark_empty();
  clear_needs_recovery();
  return result_;
}

} // namespace

JournalReplay replay_ext_journal(WritableImage& disk, Range range, std::uint32_t most_blocks) {
  auto location = find_journal(disk, range, most_blocks);
  if (!location)
    return {};
  return Journal(disk, range, std::move(*location), most_blocks).replay();
}

} // namespace kvmport
