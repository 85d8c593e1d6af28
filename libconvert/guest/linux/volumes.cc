// SPDX-License-Identifier: Apache-2.0
// Software RAID and LVM: they find their members by what is on them, unless configuration ties them to old names.
#include "libconvert/guest/linux/device_names.h"
#include "libconvert/guest/linux/steps.h"
#include "libconvert/guest/linux/text.h"

#include <algorithm>

namespace kvmport::linux_guest {

namespace {

/// "DEVICE /dev/sda1 /dev/sdb1" → "DEVICE partitions"; "ARRAY … devices=/dev/sda1,… UUID=…" → without devices=.
void mdadm_line(const std::string& file, std::size_t number, std::string& line, Draft& draft) {
  const auto words = split_words(line);
  if (words.empty())
    return;
  const std::string keyword = lower(words[0].text);
  if (keyword.starts_with("dev") && std::string_view("device").starts_with(keyword)) {
    const bool bound = std::any_of(words.begin() + 1, words.end(), [](const Word& word) {
      // Wildcards too: /dev/sd*
      return DeviceTranslator::depends_on_bus(word.text) || word.text.starts_with("/dev/sd") ||
             word.text.starts_with("/dev/hd") || word.text.starts_with("/dev/xvd") ||
             word.text.starts_with("/dev/nvme");
    });
    if (bound)
      line = std::string(words[0].text) + " partitions";
    return;
  }
  if (keyword != "array")
    return;
  const auto devices = std::find_if(words.begin(), words.end(),
                                    [](const Word& word) { return starts_with_nocase(word.text, "devices="); });
  if (devices == words.end())
    return;
  const bool has_uuid =
      std::any_of(words.begin(), words.end(), [](const Word& word) { return starts_with_nocase(word.text, "uuid="); });
  if (!has_uuid) {
    draft.warn(file + " line " + std::to_string(number) +
               ": the array is known by its members' old names only; add its UUID (mdadm --detail --scan)");
    return;
  }
  std::size_t from = devices->at;
  while (from > 0 && (line[from - 1] == ' ' || line[from - 1] == '\t'))
    from--;
  line.erase(from, devices->at + devices->text.size() - from);
}

/// Whether an uncommented filter of lvm.conf accepts or rejects by names that change.
void check_lvm_filter(const std::string& file, const std::string& text, Draft& draft) {
  std::size_t number = 0;
  for (const std::string& line : split_lines(text)) {
    number++;
    const std::string_view body = trim(line);
    if (!body.starts_with("filter") && !body.starts_with("global_filter"))
      continue;
    for (std::string_view name : {"/dev/sd", "/dev/hd", "/dev/xvd", "/dev/nvme", "/by-path/", "/by-id/", "sda", "xvda"})
      if (body.find(name) != std::string_view::npos) {
        draft.warn(file + " line " + std::to_string(number) +
                   ": LVM's filter names devices of the old hardware; a volume group whose disks it no longer accepts "
                   "stays inactive. Let it accept the new names (/dev/vda …)");
        break;
      }
  }
}

} // namespace

void mdadm_step(const GuestInfo&, Draft& draft) {
  std::vector<std::string> files{"/etc/mdadm.conf", "/etc/mdadm/mdadm.conf"};
  for (const std::string& directory : {std::string("/etc/mdadm.conf.d"), std::string("/etc/mdadm/mdadm.conf.d")})
    for (const std::string& name : draft.list(directory))
      if (name.ends_with(".conf"))
        files.push_back(join_path(directory, name));
  for (const std::string& path : files) {
    const auto text = draft.try_read(path);
    if (!text)
      continue;
    const std::string after = edit_lines(*text, [&](std::string& line, std::size_t number) {
      mdadm_line(path, number, line, draft);
      return true;
    });
    if (after != *text)
      draft.write(path, after, "arrays are found by UUID on every disk; the members' old names are gone");
  }
}

void lvm_step(const GuestInfo&, Draft& draft) {
  const std::string devices = "/etc/lvm/devices/system.devices";
  if (draft.exists(devices))
    draft.rename(devices, devices + std::string(aside_suffix),
                 "LVM would use only the disks listed here, by identities of the old controller; without the list it "
                 "looks at all disks");
  for (const char* path : {"/etc/lvm/lvm.conf", "/etc/lvm/lvmlocal.conf"})
    if (const auto text = draft.try_read(path))
      check_lvm_filter(path, *text, draft);
  for (const char* path : {"/etc/lvm/cache/.cache", "/etc/lvm/.cache"})
    if (draft.exists(path))
      draft.remove(path, "a cache of old device names; LVM makes it again");
}

void blkid_cache_step(const GuestInfo&, Draft& draft) {
  for (const char* path : {"/etc/blkid.tab", "/etc/blkid.tab.old", "/etc/blkid/blkid.tab", "/etc/blkid/blkid.tab.old",
                           "/var/cache/blkid/blkid.tab"})
    if (const auto status = draft.lstat(path); status && status->type == FileType::regular)
      draft.remove(path, "a cache of old device names; blkid makes it again");
}

} // namespace kvmport::linux_guest
