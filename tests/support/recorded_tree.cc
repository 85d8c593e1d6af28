// SPDX-License-Identifier: Apache-2.0
#include "tests/support/recorded_tree.h"

#include "base/file.h"

#include <fstream>
#include <sstream>
#include <stdexcept>

namespace fs = std::filesystem;

namespace kvmport::test {
namespace {

std::string unescaped(const std::string& text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); i++)
    if (text[i] == '\\' && i + 1 < text.size())
      out += text[++i] == 'n' ? '\n' : text[i];
    else
      out += text[i];
  return out;
}

std::string from_hex(const std::string& text) {
  std::string out;
  for (std::size_t i = 0; i + 1 < text.size(); i += 2)
    out += static_cast<char>(std::stoi(text.substr(i, 2), nullptr, 16));
  return out;
}

void put(const fs::path& file, const std::string& content) {
  fs::create_directories(file.parent_path());
  std::ofstream(file, std::ios::binary) << content;
}

} // namespace

void unpack_entries(const std::string& text, const fs::path& directory) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (line.empty() || line[0] == '#')
      continue;
    const std::size_t space = line.find(' ');
    const fs::path path = directory / line.substr(1, space == std::string::npos ? space : space - 1);
    const std::string kind =
        space == std::string::npos ? "" : line.substr(space + 1, line.find(' ', space + 1) - space - 1);
    const std::size_t skip = space + kind.size() + 2;
    const std::string value = space == std::string::npos || skip > line.size() ? "" : line.substr(skip);
    if (kind.empty() && line.back() == '/')
      fs::create_directories(path);
    else if (kind == "->")
      fs::create_directories(path.parent_path()), fs::create_symlink(value, path);
    else if (kind == "=")
      put(path, unescaped(value) + "\n");
    else if (kind == ":")
      put(path, from_hex(value));
    else
      throw std::runtime_error("no entry of a tree: " + line);
  }
}

void unpack_tree(const std::string& name, const fs::path& directory) {
  unpack_entries(read_file(fs::path("tests/p2v/trees") / name), directory);
}

} // namespace kvmport::test
