// SPDX-License-Identifier: Apache-2.0
#include "tests/machine/support.h"

#include "libconvert/machine/manifest.h"
#include "libconvert/machine/text.h"

#include <cstdio>

namespace kvmport::test {

std::string error_code(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.code();
  }
  return "";
}

bool has_note(const Machine& machine, const std::string& word) {
  for (const std::string& note : machine.notes)
    if (note.find(word) != std::string::npos)
      return true;
  return false;
}

void touch(const std::filesystem::path& path, const std::string& content) {
  std::filesystem::create_directories(path.parent_path());
  write_file_durably(path, content);
}

std::string make_tar(const std::vector<TarEntry>& entries, bool end_mark) {
  std::string tar;
  for (const TarEntry& entry : entries) {
    std::string header(512, '\0');
    const auto put = [&](std::size_t at, const std::string& text) { header.replace(at, text.size(), text); };
    char size[16];
    std::snprintf(size, sizeof size, "%011zo", entry.content.size());
    put(0, entry.name.substr(0, 100));
    put(100, "0000644");
    put(108, "0000000");
    put(116, "0000000");
    put(124, size);
    put(136, "00000000000");
    header[156] = entry.type;
    put(157, entry.link);
    put(257, std::string("ustar\0"
                         "00",
                         8));
    put(148, "        ");
    unsigned sum = 0;
    for (char c : header)
      sum += static_cast<unsigned char>(c);
    char checksum[16];
    std::snprintf(checksum, sizeof checksum, "%06o", sum);
    put(148, std::string(checksum, 6) + std::string("\0 ", 2));
    tar += header + entry.content;
    tar.resize((tar.size() + 511) / 512 * 512, '\0');
  }
  if (end_mark)
    tar.append(1024, '\0');
  return tar;
}

std::string manifest_line(const std::string& algorithm, const std::string& name, const std::string& content) {
  const std::string digest = digest_of(content, lower(algorithm) + ":");
  return algorithm + "(" + name + ")= " + digest.substr(digest.find(':') + 1) + "\n";
}

} // namespace kvmport::test
