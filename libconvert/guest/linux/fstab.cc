// SPDX-License-Identifier: Apache-2.0
// What mounts and opens devices by name: fstab, mount units, crypttab, the hibernation device.
#include "libconvert/guest/linux/device_names.h"
#include "libconvert/guest/linux/steps.h"
#include "libconvert/guest/linux/text.h"

#include <algorithm>

namespace kvmport::linux_guest {

namespace {

std::string at_line(const std::string& file, std::size_t number) {
  return file + " line " + std::to_string(number);
}

bool has_option(std::string_view options, std::string_view wanted) {
  while (!options.empty()) {
    const std::string_view option = options.substr(0, options.find(','));
    if (option == wanted)
      return true;
    options.remove_prefix(std::min(options.size(), option.size() + 1));
  }
  return false;
}

/// Puts `value` in place of a word; blanks after it shrink as far as they can, so that columns stay where they were.
void replace_word(std::string& line, const Word& word, const std::string& value) {
  const std::size_t at = word.at, old = word.text.size();
  std::size_t blanks = 0;
  while (at + old + blanks < line.size() && line[at + old + blanks] == ' ')
    blanks++;
  std::size_t remove = old;
  if (value.size() > old)
    remove += blanks > 1 ? std::min(blanks - 1, value.size() - old) : 0;
  line.replace(at, remove, value);
}

/// CD and floppy drives: their names stay or don't matter for the boot.
bool is_removable(const std::vector<Word>& words) {
  return words.size() > 3 &&
         (words[2].text.find("iso9660") != std::string_view::npos ||
          words[2].text.find("udf") != std::string_view::npos) &&
         has_option(words[3].text, "noauto");
}

/// The name may mean another disk than it seems when what lies there isn't what the line says.
void check_type(const BlockDevice& device, std::string_view type, const std::string& where, Draft& draft) {
  static constexpr std::string_view checked[] = {"ext2", "ext3", "ext4",     "xfs", "btrfs",
                                                 "swap", "vfat", "reiserfs", "jfs"};
  const auto known = [&](std::string_view t) {
    return std::find(std::begin(checked), std::end(checked), t) != std::end(checked);
  };
  const bool ext = type.starts_with("ext") && device.type.starts_with("ext");
  if (known(type) && known(device.type) && type != device.type && !ext)
    draft.warn(where + ": the line says " + std::string(type) + ", but " + device.source_name + " holds " +
               device.type + "; check that this is the right disk");
}

/// Folders that the old hypervisor shared with the guest. systemd stops in emergency mode when such a mount fails.
bool is_shared_folder(std::string_view type) {
  for (std::string_view name : {"vmhgfs", "fuse.vmhgfs-fuse", "vboxsf", "prl_fs"})
    if (type == name)
      return true;
  return false;
}

void fstab_line(const DeviceTranslator& devices, const std::string& file, std::size_t number, std::string& line,
                Draft& draft) {
  const std::string before = line; // the words point into it
  const auto words = split_words(before);
  if (words.size() < 2 || words[0].text.starts_with('#'))
    return;
  if (words.size() > 2 && is_shared_folder(words[2].text)) {
    line = "# " + line;
    draft.note(at_line(file, number) + ": a folder shared by the old hypervisor is no longer mounted at " +
               std::string(words[1].text));
    return;
  }
  // From the back, so that positions of the words before stay right.
  if (words.size() > 3) {
    const std::string options(words[3].text);
    const NameStyle style = words[2].text == "btrfs" ? NameStyle::stable_path : NameStyle::path;
    const std::string after = devices.rewrite(options, style, at_line(file, number), draft);
    if (after != options)
      line.replace(words[3].at, options.size(), after);
  }
  if (is_removable(words))
    return;
  const std::string spec(words[0].text);
  if (!DeviceTranslator::depends_on_bus(spec))
    return;
  if (const BlockDevice* device = devices.find(spec); device && words.size() > 2)
    check_type(*device, words[2].text, at_line(file, number), draft);
  const std::string after = devices.rewrite(spec, NameStyle::tag, at_line(file, number), draft);
  if (after != spec)
    replace_word(line, words[0], after);
}

void edit_file(Draft& draft, const std::string& path, const std::string& reason,
               const std::function<bool(std::string&, std::size_t)>& edit) {
  const auto text = draft.try_read(path);
  if (!text)
    return;
  const std::string after = edit_lines(*text, edit);
  if (after != *text)
    draft.write(path, after, reason);
}

void crypttab_line(const DeviceTranslator& devices, std::size_t number, std::string& line, Draft& draft) {
  const std::string before = line; // the words point into it
  const auto words = split_words(before);
  if (words.size() < 2 || words[0].text.starts_with('#'))
    return;
  const std::string where = at_line("/etc/crypttab", number);
  if (words.size() > 2) { // a key file on another device: "/dev/sdb1:/key" or the device itself
    const std::string key(words[2].text);
    const std::string after = devices.rewrite(key, NameStyle::path, where, draft);
    if (after != key)
      line.replace(words[2].at, key.size(), after);
  }
  const std::string spec(words[1].text);
  const std::string_view options = words.size() > 3 ? words[3].text : std::string_view{};
  // Random-key mappings overwrite whatever UUID lies inside, so only the partition's own name holds.
  const bool plain = has_option(options, "plain") || has_option(options, "swap") || has_option(options, "tmp") ||
                     (words.size() > 2 && words[2].text.ends_with("random"));
  const std::string after = devices.rewrite(spec, plain ? NameStyle::stable_path : NameStyle::tag, where, draft);
  if (after != spec)
    replace_word(line, words[1], after);
}

void mount_units(const DeviceTranslator& devices, Draft& draft) {
  const std::string directory = "/etc/systemd/system";
  for (const std::string& name : draft.list(directory)) {
    const bool swap = name.ends_with(".swap");
    if (!swap && !name.ends_with(".mount"))
      continue;
    const std::string path = join_path(directory, name);
    edit_file(draft, path, "the unit named its device by its place on the old hardware",
              [&](std::string& line, std::size_t number) {
                if (!line.starts_with("What=") || !DeviceTranslator::depends_on_bus(trim(line.substr(5))))
                  return true;
                if (swap) { // systemd wants the unit's own name to spell the device
                  draft.warn(at_line(path, number) + ": a swap unit is named after its device, which changes; "
                                                     "replace it by an fstab line with UUID=");
                  return true;
                }
                line = devices.rewrite(line, NameStyle::path, at_line(path, number), draft);
                return true;
              });
  }
}

void warn_of_multipath(Draft& draft) {
  const auto fstab = draft.try_read("/etc/fstab");
  if (draft.exists("/etc/multipath/wwids") && fstab && fstab->find("/dev/mapper/mpath") != std::string::npos)
    draft.warn("/etc/fstab mounts multipath devices (/dev/mapper/mpath…): the new disk has one path and no multipath "
               "name; mount by UUID instead");
}

} // namespace

void fstab_step(const GuestInfo& info, Draft& draft) {
  const DeviceTranslator devices(info, draft.guest());
  edit_file(draft, "/etc/fstab", "devices were named by their place on the old hardware; names change with the bus",
            [&](std::string& line, std::size_t number) {
              fstab_line(devices, "/etc/fstab", number, line, draft);
              return true;
            });
  mount_units(devices, draft);
  warn_of_multipath(draft);
}

void crypttab_step(const GuestInfo& info, Draft& draft) {
  const DeviceTranslator devices(info, draft.guest());
  edit_file(draft, "/etc/crypttab", "encrypted devices were named by their place on the old hardware",
            [&](std::string& line, std::size_t number) {
              crypttab_line(devices, number, line, draft);
              return true;
            });
}

void resume_step(const GuestInfo& info, Draft& draft) {
  const DeviceTranslator devices(info, draft.guest());
  std::vector<std::string> files{"/etc/initramfs-tools/initramfs.conf"};
  for (const std::string& name : draft.list("/etc/initramfs-tools/conf.d"))
    files.push_back("/etc/initramfs-tools/conf.d/" + name);
  for (const std::string& path : files)
    edit_file(draft, path, "the next initramfs would look for the hibernation device under its old name",
              [&](std::string& line, std::size_t number) {
                if (line.starts_with("RESUME=") || line.starts_with("ROOT="))
                  line = devices.rewrite(line, NameStyle::tag, at_line(path, number), draft);
                return true;
              });
  for (const char* path : {"/etc/uswsusp.conf", "/etc/suspend.conf"})
    edit_file(draft, path, "the hibernation device was named by its place on the old hardware",
              [&](std::string& line, std::size_t number) {
                if (trim(line).starts_with("resume device"))
                  line = devices.rewrite(line, NameStyle::path, at_line(path, number), draft);
                return true;
              });
}

} // namespace kvmport::linux_guest
