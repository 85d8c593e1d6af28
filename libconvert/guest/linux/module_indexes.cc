// SPDX-License-Identifier: Apache-2.0
#include "libconvert/guest/linux/module_indexes.h"

#include "base/bytes.h"
#include "libconvert/guest/linux/modules.h"
#include "libconvert/guest/linux/text.h"

#include <algorithm>
#include <array>
#include <set>

namespace kvmport::linux_guest {
namespace {

constexpr std::uint32_t index_magic = 0xb007f457;
constexpr std::uint32_t index_version = 0x00020001;
// In the upper bits of a node's offset: what the node has.
constexpr std::uint32_t with_prefix = 0x80000000, with_values = 0x40000000, with_children = 0x20000000;

void put_number(std::string& out, std::uint32_t number) {
  std::array<std::byte, 4> bytes{};
  store_be<std::uint32_t>(bytes, 0, number);
  out += as_text(bytes);
}

/// Writes the trie, children before their parent.
class IndexWriter {
 public:
  using Entry = std::pair<std::string_view, const IndexValue*>;

  explicit IndexWriter(const std::multimap<std::string, IndexValue>& entries) {
    for (const auto& [key, value] : entries)
      entries_.emplace_back(key, &value);
    std::ranges::stable_sort(entries_, [](const Entry& a, const Entry& b) {
      return a.first != b.first ? a.first < b.first : a.second->priority < b.second->priority;
    });
  }

  std::string write() {
    put_number(out_, index_magic);
    put_number(out_, index_version);
    put_number(out_, 0);
    std::string root;
    put_number(root, node(entries_, 0, false));
    return out_.replace(8, 4, root);
  }

 private:
  /// A node for keys that agree in their first `depth` characters; its offset and flags. The root has no prefix.
  std::uint32_t node(std::span<const Entry> keys, std::size_t depth, bool may_have_prefix) { // NOLINT: bounded by keys
    std::size_t at = depth;
    if (may_have_prefix && !keys.empty()) {
      const auto [first, last] = std::pair(keys.front().first, keys.back().first);
      while (at < first.size() && at < last.size() && first[at] == last[at])
        at++;
    }
    const auto here = std::ranges::find_if(keys, [&](const Entry& e) { return e.first.size() > at; }) - keys.begin();
    const std::span<const Entry> values = keys.first(static_cast<std::size_t>(here));
    std::span<const Entry> rest = keys.subspan(static_cast<std::size_t>(here));
    std::map<char, std::uint32_t> children;
    while (!rest.empty()) {
      const char next = rest.front().first[at];
      const auto count = static_cast<std::size_t>(
          std::ranges::find_if(rest, [&](const Entry& e) { return e.first[at] != next; }) - rest.begin());
      children[next] = node(rest.first(count), at + 1, true);
      rest = rest.subspan(count);
    }
    auto offset = static_cast<std::uint32_t>(out_.size());
    if (at > depth) {
      out_.append(keys.front().first.substr(depth, at - depth)).push_back('\0');
      offset |= with_prefix;
    }
    if (!children.empty()) {
      const char first = children.begin()->first, last = children.rbegin()->first;
      out_ += {first, last};
      for (int c = first; c <= last; c++) {
        const auto child = children.find(static_cast<char>(c));
        put_number(out_, child == children.end() ? 0 : child->second);
      }
      offset |= with_children;
    }
    if (!values.empty()) {
      put_number(out_, static_cast<std::uint32_t>(values.size()));
      for (const auto& [key, value] : values) {
        put_number(out_, value->priority);
        out_.append(value->value).push_back('\0');
      }
      offset |= with_values;
    }
    return offset;
  }

  std::vector<Entry> entries_;
  std::string out_;
};

/// As libkmod compares aliases: '-' is '_', but not inside of brackets.
std::string normal_alias(std::string_view alias) {
  std::string out;
  bool inside = false;
  for (const char c : alias) {
    if (c == '[' || c == ']')
      inside = c == '[';
    out += c == '-' && !inside ? '_' : c;
  }
  return out;
}

using Numbers = std::map<std::string, unsigned, std::less<>>; ///< of the chosen modules, as depmod counts them

std::string_view next_word(std::string_view& line) {
  line.remove_prefix(std::min(line.find_first_not_of(" \t"), line.size()));
  const std::string_view word = line.substr(0, line.find_first_of(" \t"));
  line.remove_prefix(word.size());
  return word;
}

/// The lines whose word number `index` is a chosen module; comments stay. `each` sees the word before it, and the
/// module. These files have tens of thousands of lines, so nothing is copied that is not kept.
std::string cut_lines(std::string_view text, std::size_t index, const Numbers& chosen,
                      const std::function<void(std::string_view, Numbers::const_iterator)>& each = {}) {
  std::string out;
  while (!text.empty()) {
    const std::string_view line = text.substr(0, std::min(text.find('\n'), text.size() - 1) + 1);
    text.remove_prefix(line.size());
    if (!line.starts_with('#')) {
      std::string_view rest = line_body(line), before, word;
      for (std::size_t i = 0; i <= index; i++) {
        before = word;
        word = next_word(rest);
      }
      const auto module = chosen.find(word);
      if (module == chosen.end())
        continue;
      if (each)
        each(before, module);
    }
    out += line;
  }
  return out;
}

} // namespace

std::optional<std::string> write_kmod_index(const std::multimap<std::string, IndexValue>& entries) {
  for (const auto& [key, value] : entries)
    if (std::ranges::any_of(key, [](char c) { return c <= 0; }))
      return std::nullopt;
  return IndexWriter(entries).write();
}

std::optional<ModuleIndexes> cut_module_indexes(const std::map<std::string, std::string>& chosen,
                                                const std::function<std::optional<std::string>(const char*)>& read) {
  const auto dep = read("modules.dep"), alias = read("modules.alias"), symbols = read("modules.symbols"),
             softdep = read("modules.softdep");
  if (!dep || !alias || !symbols || !softdep)
    return std::nullopt;
  // modules.dep names the modules in the order in which depmod numbers them.
  Numbers numbers;
  std::string dep_text;
  std::multimap<std::string, IndexValue> dep_index;
  for (const auto& line : split_lines(*dep)) {
    const std::string_view body = line_body(line);
    const auto colon = body.find(':');
    const std::string name = module_name(body.substr(0, colon));
    const auto path = chosen.find(name);
    if (colon == std::string_view::npos || path == chosen.end())
      continue;
    std::string cut = path->second + ":";
    for (const auto& word : split_words(body.substr(colon + 1))) {
      const auto needed = chosen.find(module_name(word.text));
      if (needed == chosen.end())
        return std::nullopt;
      cut += " " + needed->second;
    }
    const auto number = static_cast<unsigned>(numbers.size());
    if (!numbers.emplace(name, number).second)
      return std::nullopt;
    dep_text += cut + "\n";
    dep_index.emplace(name, IndexValue{cut, number});
  }
  if (numbers.size() != chosen.size())
    return std::nullopt;
  std::multimap<std::string, IndexValue> alias_index, symbol_index;
  const auto into = [&](std::multimap<std::string, IndexValue>& index, bool normalized) {
    return [&index, normalized](std::string_view alias, Numbers::const_iterator module) {
      index.emplace(normalized ? normal_alias(alias) : std::string(alias), IndexValue{module->first, module->second});
    };
  };
  ModuleIndexes files{{"modules.dep", dep_text},
                      {"modules.alias", cut_lines(*alias, 2, numbers, into(alias_index, true))},
                      {"modules.symbols", cut_lines(*symbols, 2, numbers, into(symbol_index, false))},
                      {"modules.softdep", cut_lines(*softdep, 1, numbers)}};
  if (const auto devname = read("modules.devname")) {
    bool any = false;
    std::string text = cut_lines(*devname, 0, numbers, [&](std::string_view, Numbers::const_iterator) { any = true; });
    files.emplace_back("modules.devname", any ? std::move(text) : "");
  }
  for (const auto& [name, index] :
       {std::pair("modules.dep.bin", &dep_index), std::pair("modules.alias.bin", &alias_index),
        std::pair("modules.symbols.bin", &symbol_index)}) {
    auto binary = write_kmod_index(*index);
    if (!binary)
      return std::nullopt;
    files.emplace_back(name, std::move(*binary));
  }
  return files;
}

} // namespace kvmport::linux_guest
