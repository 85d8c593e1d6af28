// SPDX-License-Identifier: Apache-2.0
#include "libconvert/clone/clone_list.h"

#include "base/file.h"
#include "libconvert/machine/text.h"

#include <csv.h>
#include <fmt/format.h>
#include <memory>
#include <sstream>
#include <toml++/toml.h>

namespace kvmport {
namespace {

Error invalid(const std::string& file, std::size_t line, const std::string& why) {
  return {"LIST_INVALID", fmt::format("{}, line {}: {}", file, line, why)};
}

std::vector<std::string> words_of(const std::string& text) {
  std::istringstream in(text);
  std::vector<std::string> words;
  for (std::string word; in >> word;)
    words.push_back(word);
  return words;
}

/// What a line of the list says of the clone's static address, in words.
struct AddressWords {
  std::vector<std::string> addresses, gateways, dns;
};

void add_address(CloneRequest& clone, const AddressWords& words, const std::string& file, std::size_t line) {
  try {
    clone.address = parse_static_address(words.addresses, words.gateways, words.dns);
  } catch (const Error& error) {
    throw invalid(file, line, error.what());
  }
}

constexpr const char* all_columns = "name, hostname, mac, address, gateway, dns";

bool is_column(std::string_view name) {
  return name == "name" || name == "hostname" || name == "mac" || name == "address" || name == "gateway" ||
         name == "dns";
}

void add(std::vector<CloneRequest>& clones, CloneRequest clone, const std::string& file, std::size_t line) {
  if (clone.name.empty())
    throw invalid(file, line, "a clone has no name");
  if (clones.size() == most_clones)
    throw invalid(file, line, fmt::format("more than {} clones", most_clones));
  clones.push_back(std::move(clone));
}

/// What libcsv tells of a file.
struct CsvRows {
  std::vector<std::vector<std::string>> rows{1};
  static void field(void* text, std::size_t length, void* self) {
    static_cast<CsvRows*>(self)->rows.back().emplace_back(static_cast<const char*>(text), length);
  }
  static void row(int, void* self) { static_cast<CsvRows*>(self)->rows.emplace_back(); }
};

std::string text_at(const toml::table& table, std::string_view key, const std::string& file) {
  const toml::node* node = table.get(key);
  if (node == nullptr)
    return {};
  const auto text = node->value<std::string>();
  if (!text || !node->is_string())
    throw invalid(file, node->source().begin.line, std::string(key) + " is no text");
  return *text;
}

/// One text with words, or an array of texts.
std::vector<std::string> words_at(const toml::table& table, std::string_view key, const std::string& file) {
  const toml::array* list = table[key].as_array();
  if (list == nullptr)
    return words_of(text_at(table, key, file));
  std::vector<std::string> words;
  for (const toml::node& word : *list) {
    if (!word.is_string())
      throw invalid(file, table.source().begin.line, std::string(key) + " is no list of texts");
    words.push_back(*word.value<std::string>());
  }
  return words;
}

} // namespace

std::vector<CloneRequest> numbered_clones(const std::string& pattern, std::size_t count, std::size_t first) {
  if (count > most_clones)
    throw Error("USAGE", fmt::format("{} clones are more than {}", count, most_clones));
  // A width of many digits would fill the memory.
  const std::size_t begin = std::min(pattern.find('{'), pattern.size());
  std::size_t digits = 0;
  for (const char c : pattern.substr(begin, pattern.find('}', begin) - begin)) {
    digits = c >= '0' && c <= '9' ? digits + 1 : 0;
    if (digits > 2)
      throw Error("USAGE", "the number in the name \"" + pattern + "\" is too wide");
  }
  std::vector<CloneRequest> clones;
  for (std::size_t i = 0; i < count; i++)
    try {
      clones.push_back({fmt::format(fmt::runtime(pattern), first + i)});
    } catch (const fmt::format_error& error) {
      throw Error("USAGE", "the name \"" + pattern + "\" is no pattern with one number", error.what(),
                  "write {} or {:03} where the number shall stand");
    }
  if (count > 1 && clones[0].name == clones[1].name)
    throw Error("USAGE", "all clones would be called " + clones[0].name, {},
                "write {} or {:03} in --name where the number shall stand");
  return clones;
}

std::vector<CloneRequest> clones_from_csv(const std::string& text, const std::string& file) {
  CsvRows csv;
  csv_parser parser{};
  if (::csv_init(&parser, CSV_STRICT | CSV_STRICT_FINI | CSV_EMPTY_IS_NULL) != 0)
    throw Error("IO_ERROR", "libcsv can't be used");
  const std::unique_ptr<csv_parser, decltype(&::csv_free)> owner(&parser, &::csv_free);
  if (::csv_parse(&parser, text.data(), text.size(), &CsvRows::field, &CsvRows::row, &csv) != text.size() ||
      ::csv_fini(&parser, &CsvRows::field, &CsvRows::row, &csv) != 0)
    throw invalid(file, csv.rows.size(), ::csv_strerror(::csv_error(&parser)));
  std::vector<CloneRequest> clones;
  const std::vector<std::string>& columns = csv.rows.front();
  for (const std::string& column : columns)
    if (!is_column(column))
      throw invalid(file, 1, fmt::format("no column is called \"{}\" ({})", printable(column, 40), all_columns));
  for (std::size_t i = 1; i < csv.rows.size(); i++) {
    const auto& row = csv.rows[i];
    if (row.empty())
      continue;
    if (row.size() != columns.size())
      throw invalid(file, i + 1, fmt::format("{} columns, the first line has {}", row.size(), columns.size()));
    CloneRequest clone;
    AddressWords address;
    for (std::size_t c = 0; c < row.size(); c++) {
      const std::string& column = columns[c];
      if (column == "name")
        clone.name = row[c];
      else if (column == "hostname")
        clone.hostname = row[c];
      else
        (column == "mac"       ? clone.macs
         : column == "address" ? address.addresses
         : column == "gateway" ? address.gateways
                               : address.dns) = words_of(row[c]);
    }
    add_address(clone, address, file, i + 1);
    add(clones, std::move(clone), file, i + 1);
  }
  return clones;
}

std::vector<CloneRequest> clones_from_toml(const std::string& text, const std::string& file) {
  toml::table root;
  try {
    root = toml::parse(text, file);
  } catch (const toml::parse_error& error) {
    throw invalid(file, error.source().begin.line, std::string(error.description()));
  }
  const toml::array* list = root["clone"].as_array();
  if (list == nullptr || root.size() != 1)
    throw invalid(file, 1, "[[clone]] tables are wanted, and nothing else");
  std::vector<CloneRequest> clones;
  for (const toml::node& node : *list) {
    const toml::table* table = node.as_table();
    const std::size_t line = node.source().begin.line;
    if (table == nullptr)
      throw invalid(file, line, "a clone is no table");
    for (const auto& [key, value] : *table)
      if (!is_column(key.str()))
        throw invalid(file, line, "no key is called \"" + printable(std::string(key.str()), 40) + "\"");
    CloneRequest clone{text_at(*table, "name", file), text_at(*table, "hostname", file)};
    clone.macs = words_at(*table, "mac", file);
    add_address(clone,
                {words_at(*table, "address", file), words_at(*table, "gateway", file), words_at(*table, "dns", file)},
                file, line);
    add(clones, std::move(clone), file, line);
  }
  return clones;
}

std::vector<CloneRequest> clones_from_file(const std::filesystem::path& file) {
  const std::string text = read_file(file), ending = lower(file.extension().string());
  if (ending != ".csv" && ending != ".toml")
    throw Error("LIST_INVALID", file.string() + " is no list of clones", {}, "give a .csv or .toml file");
  auto clones = ending == ".csv" ? clones_from_csv(text, file.string()) : clones_from_toml(text, file.string());
  if (clones.empty())
    throw Error("LIST_INVALID", file.string() + " names no clone");
  return clones;
}

} // namespace kvmport
