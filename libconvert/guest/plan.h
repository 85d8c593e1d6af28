// SPDX-License-Identifier: Apache-2.0
// The plan: every change to the guest as data, each with its reason. Steps write into a Draft, which shows the guest as
// it will be after the changes so far; nothing is applied until apply_plan().
#pragma once

#include "libconvert/guest/filesystem.h"
#include "libconvert/guest/guest.h"

#include <functional>
#include <map>
#include <string>
#include <vector>

namespace kvmport {

struct Change {
  enum class Kind { write, append, empty, copy, rename, remove, symlink, mkdir };
  Kind kind = Kind::write;
  std::string step;   ///< which step wants it: "fstab", "grub", "initramfs", …
  std::string path;   ///< what is changed, links resolved
  std::string target; ///< copy, rename: the new path; symlink: what it points to
  std::string before,
      after; ///< write: whole contents (before empty for a new file); append: the appended bytes in `after`
  bool existed = false;
  bool binary = false; ///< contents are not text, or are nobody's business: reports show sizes only
  std::uint32_t mode = 0644;
  std::string reason;
};

/// "write", "append", … as the report says it.
std::string to_string(Change::Kind kind);

struct Plan {
  std::vector<Change> changes;
  std::vector<std::string> warnings;
  std::vector<std::string> notes;
  /// What the hardware of the result must be when the guest can't drive virtio.
  bool virtio_disk = true, virtio_net = true;
  std::string fallback_reason;
};

/// A step's pen. Reads see the guest with the changes so far; writes become Changes. Writing what is already there is
/// no change.
class Draft {
 public:
  Draft(const GuestFilesystem& guest, Plan& plan);

  // Reading: as GuestFilesystem, changes included.
  bool exists(const std::string& path) const;
  bool is_directory(const std::string& path) const;
  std::vector<std::string> list(const std::string& directory) const;
  std::optional<std::string> try_read(const std::string& path) const;
  std::string readlink(const std::string& path) const;
  std::optional<FileStat> lstat(const std::string& path) const;
  const GuestFilesystem& guest() const { return guest_; }

  // Writing. `reason` says why, in one line for people. Directories above a new file are made. copy(), rename() and
  // remove() are for files and links. write() and empty() follow links, rename() and remove() mean the link itself.
  // empty() leaves a file without content and, unlike write(), doesn't read what was in it.
  void write(const std::string& path, const std::string& content, const std::string& reason, std::uint32_t mode = 0644);
  void append(const std::string& path, const std::string& bytes, const std::string& reason);
  void empty(const std::string& path, const std::string& reason);
  void copy(const std::string& from, const std::string& to, const std::string& reason);
  void rename(const std::string& from, const std::string& to, const std::string& reason);
  void remove(const std::string& path, const std::string& reason);
  /// A directory that is empty by then; Error GUEST_WRITE_FAILED when it is not.
  void remove_directory(const std::string& path, const std::string& reason);
  void symlink(const std::string& target, const std::string& path, const std::string& reason);
  void make_directories(const std::string& path, const std::string& reason);
  void warn(const std::string& text);
  void note(const std::string& text);
  Plan& plan() { return plan_; }

  /// Set by run_steps: the name that changes carry.
  std::string step;

 private:
  struct Pending {
    bool present = true;
    FileType type = FileType::regular;
    std::string base;    ///< guest file whose content comes first; empty: none
    std::string content; ///< what follows it, or the link's target
    std::uint32_t mode = 0644;
  };
  const GuestFilesystem& guest_;
  Plan& plan_;
  std::map<std::string, Pending> pending_;
  std::string resolve(const std::string& path, bool follow_last = true) const;
  Pending file_at(const std::string& path, const char* doing) const;
  Change& record(Change::Kind kind, const std::string& path, const std::string& reason);
};

/// A step: looks at the guest through the draft and writes down what it wants.
struct Step {
  std::string name;
  std::function<void(const GuestInfo&, Draft&)> run;
};

struct PlanOptions {
  bool serial_console = false; ///< --serial-console: also in the result
};

/// Every step for a Linux guest, in order (libconvert/guest/linux/).
std::vector<Step> linux_steps(const PlanOptions& options);
Plan make_plan(const GuestInfo& info, const GuestFilesystem& guest, const std::vector<Step>& steps);
/// Bytes that a filesystem keeps free after the plan's changes.
inline constexpr std::uint64_t free_space_reserve = 1U << 20;
/// Whether the guest's filesystems have room for the plan; Error GUEST_NO_SPACE names the first that has not.
void check_room(const Plan& plan, const GuestFilesystem& guest);
/// Applies the plan, in order, after check_room(). Edited files keep mode, owner and SELinux label; new files in a
/// guest with SELinux get the label that the guest's policy names, else that of a neighbour, else all is relabelled at
/// the next boot (/.autorelabel).
void apply_plan(const Plan& plan, GuestFilesystem& guest);
/// Edits for the boot proof only: console=ttyS0 in every boot entry (grub.cfg, BLS, systemd-boot, extlinux, GRUB
/// legacy).
std::vector<Step> instrument_steps();

} // namespace kvmport
