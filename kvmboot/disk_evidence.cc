// SPDX-License-Identifier: Apache-2.0
#include "kvmboot/disk_evidence.h"

#include "formats/ext2_io.h"
#include "formats/ext_journal.h"
#include "formats/partitions.h"

#include <algorithm>
#include <array>
#include <fmt/format.h>
#include <map>
#include <optional>

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

namespace kvmport {
namespace {

constexpr std::chrono::seconds look_every{5};
constexpr std::size_t most_systems = 8, most_program_blocks = 16384, most_wtmp = 64U << 10, most_writes = 64;
/// Bounds of one look into a filesystem that may be hostile.
constexpr std::uint64_t scratch_cap = 1ULL << 30, most_read = 64U << 20;
constexpr std::uint32_t most_journal_blocks = 1U << 18;
/// Who looks for signatures reads the ends of a partition, program or not.
constexpr std::uint64_t probed_ends = 1U << 20;
/// GRUB's cache reads 32 KiB at a time, and so may touch a program that lies beside what it wants, on both sides.
constexpr std::uint64_t read_by_neighbours = 64U << 10;

constexpr std::array<const char*, 8> login_programs{"/sbin/agetty",   "/sbin/getty",      "/usr/sbin/getty",
                                                    "/sbin/mingetty", "/bin/login",       "/usr/sbin/gdm3",
                                                    "/usr/sbin/gdm",  "/usr/sbin/lightdm"};

/// Files that show a running system by their change.
struct Snapshot {
  struct State {
    ext2_ino_t inode = 0;
    std::uint64_t size = 0;
    std::uint32_t changed = 0;
    bool operator==(const State&) const = default;
  };
  std::map<std::string, State> files; ///< path; the inode is 0 when there is none
  State wtmp;

  static State state(const Ext2Handle& ext, const std::string& path) {
    const ext2_ino_t number = ext.find(path);
    const ext2_inode inode = ext.inode(number);
    return {number, EXT2_I_SIZE(&inode), inode.i_mtime};
  }
  explicit Snapshot(const Ext2Handle& ext) : wtmp(state(ext, "/var/log/wtmp")) {
    std::string id = ext.content(ext.find("/etc/machine-id"), 0, 32);
    if (id.find_first_not_of("0123456789abcdef") != std::string::npos)
      id.clear();
    for (const std::string& path : {std::string("/etc/machine-id"), std::string("/var/lib/systemd/random-seed"),
                                    "/var/log/journal/" + id + "/system.journal"})
      files[path] = state(ext, path);
  }
};

/// What new records of wtmp say (utmp(5), glibc bits/utmp.h: 384 bytes, ut_type at 0, ut_pid at 4). Systemd writes the
/// run level once multi-user.target is reached; other inits write it before their scripts run.
std::string wtmp_says(std::string_view records, bool systemd) {
  constexpr std::size_t size = 384;
  constexpr std::uint16_t run_level = 1, boot_time = 2, login_process = 6, user_process = 7;
  std::string best;
  for (; records.size() >= size; records.remove_prefix(size)) {
    const auto type = load_le<std::uint16_t>(as_bytes(records), 0);
    const auto level = load_le<std::uint32_t>(as_bytes(records), 4) & 0xff;
    if (type == login_process || type == user_process)
      return "login: /var/log/wtmp says that a login waits";
    if (type == run_level && systemd && level >= '2' && level <= '5')
      return std::string("login: /var/log/wtmp says that run level ") + static_cast<char>(level) + " was reached";
    if (type == boot_time || type == run_level)
      best = "init: /var/log/wtmp tells of the boot";
  }
  return best;
}

/// The blocks of a program, and which of them were read.
struct Program {
  std::string path;
  ext2_ino_t inode = 0;
  std::vector<std::uint64_t> blocks; ///< of the filesystem, sorted
  std::vector<bool> seen;            ///< of each
  std::size_t count = 0;

  Program(const Ext2Handle& ext, const char* name) : path(name), inode(ext.find(name)) {
    const std::uint64_t ends = probed_ends / ext.get()->blocksize, all = ext2fs_blocks_count(ext.get()->super);
    for (const std::uint64_t block : ext.blocks(inode, most_program_blocks))
      if (block >= ends && block + ends < all)
        blocks.push_back(block);
    std::sort(blocks.begin(), blocks.end());
    forget();
  }
  void forget() {
    seen.assign(blocks.size(), false);
    count = 0;
  }
  /// Blocks [first, last) of the filesystem were read.
  void note(std::uint64_t first, std::uint64_t last) {
    for (auto at = std::lower_bound(blocks.begin(), blocks.end(), first); at != blocks.end() && *at < last; ++at) {
      auto bit = seen[static_cast<std::size_t>(at - blocks.begin())];
      count += bit ? 0 : 1;
      bit = true;
    }
  }
};

} // namespace

/// One filesystem that holds a system.
class DiskEvidence::System {
 public:
  /// Error when it holds none, or can't be read.
  System(std::size_t disk, Overlay& overlay, Range range, std::string name, const fs::path& scratch)
      : disk_(disk), overlay_(overlay), range_(range), name_(std::move(name)), scratch_(overlay, scratch, scratch_cap) {
    const Ext2Handle ext = look();
    block_size_ = ext.get()->blocksize;
    programs_.emplace_back(ext, "/sbin/init");
    const ext2_ino_t init = programs_.front().inode;
    if (init == 0)
      throw Error("NO_SYSTEM", "there is no /sbin/init");
    systemd_ = init == ext.find("/lib/systemd/systemd") || init == ext.find("/usr/lib/systemd/systemd");
    for (const char* path : login_programs)
      if (Program program(ext, path); program.inode != 0 && program.inode != init)
        programs_.push_back(std::move(program));
    mount_time_ = mount_time(false);
    before_.emplace(ext);
  }

  bool holds(std::size_t disk, Range range) const {
    return disk == disk_ && range.offset < range_.end() && range.end() > range_.offset;
  }

  // These with the lock held.
  void read(Range range) {
    const std::uint64_t from = std::max(range.offset, range_.offset) - range_.offset;
    const std::uint64_t to = std::min(range.end(), range_.end()) - range_.offset;
    for (Program& program : programs_)
      program.note(from / block_size_, div_round_up(to, block_size_));
  }
  void written(Range range) {
    written_ = true;
    const std::uint64_t super = range_.offset + SUPERBLOCK_OFFSET;
    if (!mounted_ && range.offset < super + SUPERBLOCK_SIZE && range.end() > super && mount_time(true) != mount_time_) {
      mounted_ = true;
      // Small programs may have been read by neighbours until now, and who asks for names comes later.
      for (std::size_t i = 0; i < programs_.size(); i++)
        if (i != 0 || programs_[i].blocks.size() * block_size_ <= read_by_neighbours)
          programs_[i].forget();
    }
  }
  void tell_notes(std::vector<std::string>& out) {
    if (!mounted_)
      return;
    tell(told_root_, out, "root: " + name_ + " was mounted: its superblock has a new mount time");
    for (std::size_t i = 0; i < programs_.size(); i++) {
      const Program& program = programs_[i];
      const std::uint64_t read = program.count * block_size_;
      const bool large = program.blocks.size() * block_size_ > read_by_neighbours;
      if (read > (i == 0 && large ? read_by_neighbours : 0))
        tell(i == 0 ? told_init_ : told_login_, out,
             (i == 0 ? "init: " : "login: ") + program.path + " was read from " + name_);
    }
  }

  /// True when it was written to and it is time to look what; counts as looked.
  bool begin_look() { return mounted_ && before_ && Clock::now() >= next_look_ && std::exchange(written_, false); }

  void restart() {
    written_ = mounted_ = told_root_ = told_init_ = told_login_ = false;
    for (Program& program : programs_)
      program.forget();
    before_.reset();
    try {
      mount_time_ = mount_time(false);
      before_.emplace(look());
    } catch (const std::exception&) { // then its files are no evidence
    }
  }

  /// This without: it reads much.
  void examine(std::vector<std::string>& out) {
    const auto began = Clock::now();
    try {
      const Ext2Handle ext = look();
      const Snapshot now(ext);
      for (const auto& [path, state] : now.files) {
        const auto old = before_->files.find(path);
        if (state.inode != 0 && (old == before_->files.end() || state != old->second))
          tell(told_init_, out, "init: " + path + " was changed on " + name_);
      }
      const Snapshot::State &wtmp = now.wtmp, &old = before_->wtmp;
      const std::uint64_t from = wtmp.inode == old.inode && wtmp.size >= old.size ? old.size : 0;
      std::string says = wtmp_says(ext.content(wtmp.inode, from, most_wtmp), systemd_);
      if (!says.empty())
        tell(says.starts_with("login") ? told_login_ : told_init_, out, std::move(says));
    } catch (const std::exception&) { // of a guest that writes meanwhile; the next write asks for another look
    }
    const auto now = Clock::now();
    next_look_ = now + std::max<Clock::duration>(look_every, 10 * (now - began));
  }

 private:
  /// The filesystem as it would be if the guest ended here.
  Ext2Handle look() {
    scratch_.clear();
    replay_ext_journal(scratch_, range_, most_journal_blocks);
    Ext2Handle ext = Ext2Handle::open(scratch_, range_);
    ext.limit_reads(most_read);
    return ext;
  }
  /// From the superblock (Linux Documentation/filesystems/ext4/super.rst). `in_use`: only of one that is mounted for
  /// writing (its journal may need recovery; without a journal, it is not marked clean), else the one known before.
  std::uint32_t mount_time(bool in_use) const {
    Bytes super(SUPERBLOCK_SIZE);
    overlay_.read(range_.offset + SUPERBLOCK_OFFSET, super);
    const bool journal = (load_le<std::uint32_t>(super, 0x5c) & EXT3_FEATURE_COMPAT_HAS_JOURNAL) != 0;
    const bool used = journal ? (load_le<std::uint32_t>(super, 0x60) & EXT3_FEATURE_INCOMPAT_RECOVER) != 0
                              : (load_le<std::uint16_t>(super, 0x3a) & EXT2_VALID_FS) == 0;
    return in_use && !used ? mount_time_ : load_le<std::uint32_t>(super, 0x2c);
  }
  static void tell(bool& told, std::vector<std::string>& out, std::string text) {
    if (!std::exchange(told, true))
      out.push_back(std::move(text));
  }

  const std::size_t disk_;
  Overlay& overlay_;
  const Range range_;
  const std::string name_;
  Overlay scratch_;
  std::uint64_t block_size_ = 0;
  bool systemd_ = false;
  std::vector<Program> programs_; ///< init first
  std::uint32_t mount_time_ = 0;  ///< at power-on
  std::optional<Snapshot> before_;
  bool written_ = false, mounted_ = false, told_root_ = false, told_init_ = false, told_login_ = false;
  Clock::time_point next_look_;
};
DiskEvidence::DiskEvidence(const std::vector<BootDisk>& disks, const fs::path& scratch) {
  const auto add = [&](std::size_t disk, Range range, const std::string& name) {
    try {
      if (systems_.size() < most_systems)
        systems_.push_back(std::make_unique<System>(disk, *disks[disk].overlay, range, name, scratch));
    } catch (const std::exception&) { // no system that we understand
    }
  };
  for (std::size_t n = 0; n < disks.size(); n++) {
    const std::string name = "disk " + std::to_string(n + 1);
    DiskPartitions table;
    try {
      table = read_partitions(*disks[n].overlay, disks[n].logical_sector);
    } catch (const std::exception&) { // a disk that can't be read is the engine's affair
      continue;
    }
    if (table.kind.empty())
      add(n, {0, disks[n].overlay->size()}, name);
    for (const DiskPartition& partition : table.partitions)
      add(n, partition.range, "partition " + std::to_string(partition.number) + " of " + name);
  }
}

DiskEvidence::~DiskEvidence() = default;

void DiskEvidence::read(std::size_t disk, Range range) {
  used_ = true;
  for (const auto& system : systems_)
    if (system->holds(disk, range)) {
      const std::lock_guard lock(mutex_);
      system->read(range);
    }
}

void DiskEvidence::written(std::size_t disk, Range range) {
  used_ = true;
  const std::lock_guard lock(mutex_);
  if (writes_.size() < most_writes)
    writes_.push_back(fmt::format("{} {} {}", disk, range.offset, range.length));
  for (const auto& system : systems_)
    if (system->holds(disk, range)) {
      try {
        system->written(range);
      } catch (const Error&) { // the superblock can't be read: no evidence
      }
    }
}

std::vector<std::string> DiskEvidence::take_writes() {
  const std::lock_guard lock(mutex_);
  return std::exchange(writes_, {});
}

std::vector<std::string> DiskEvidence::take() {
  std::vector<std::string> out;
  for (const auto& system : systems_) {
    std::unique_lock lock(mutex_);
    system->tell_notes(out);
    const bool look = system->begin_look();
    lock.unlock();
    if (look)
      system->examine(out);
  }
  return out;
}

void DiskEvidence::restart() {
  const std::lock_guard lock(mutex_);
  for (const auto& system : systems_)
    system->restart();
}

} // namespace kvmport
