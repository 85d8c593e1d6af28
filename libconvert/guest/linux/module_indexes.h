// SPDX-License-Identifier: Apache-2.0
// Module indexes for a choice of modules, cut from those of the guest (modules.dep(5), the text files that depmod(8)
// writes) instead of made anew from the modules' contents: depmod would have to be given every module of an initramfs.
// The binary ones are written as libkmod reads them (kmod, libkmod/libkmod-index.c: a trie with compressed paths).
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace kvmport::linux_guest {

/// Name and content of files at the top of a modules directory.
using ModuleIndexes = std::vector<std::pair<std::string, std::string>>;

/// What depmod would write for the modules in `chosen` (name as in "virtio_blk" → path below the modules directory);
/// only the order in which modules.dep lists what a module needs may be another one that serves.
/// `read`: a file of the guest's modules directory ("modules.dep"), nothing when there is none. Nothing when the
/// guest's indexes are not enough: a file is missing, a module is not in them or needs one that was not chosen, or a
/// name has bytes that the format can't hold.
std::optional<ModuleIndexes> cut_module_indexes(const std::map<std::string, std::string>& chosen,
                                                const std::function<std::optional<std::string>(const char*)>& read);

/// One value of a binary index; those of one key are read in the order of `priority`, lower first.
struct IndexValue {
  std::string value;
  unsigned priority = 0;
};
/// The binary index over `entries`, or nothing when a key has bytes that it can't hold.
std::optional<std::string> write_kmod_index(const std::multimap<std::string, IndexValue>& entries);

} // namespace kvmport::linux_guest
