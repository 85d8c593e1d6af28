// SPDX-License-Identifier: Apache-2.0
#include "libconvert/p2v/enrol.h"

#include "base/ssh_key.h"
#include "libconvert/machine/text.h"
#include "libconvert/p2v/medium_settings.h"

#include <algorithm>
#include <array>
#include <fcntl.h>
#include <fmt/format.h>
#include <openssl/evp.h>
#include <sys/stat.h>
#include <unistd.h>

namespace fs = std::filesystem;

namespace kvmport {
namespace {

constexpr std::string_view key_type = "ssh-ed25519", greeting = "kvmport-enrol 1";

/// string "ssh-ed25519", string of 32 bytes (RFC 8709, section 4); each string has its length before it.
Bytes key_blob(std::string_view base) {
  constexpr std::size_t blob_size = 4 + 11 + 4 + 32;
  const Bytes blob = base.size() == blob_size / 3 * 4 ? base64_decoded(base).value_or(Bytes()) : Bytes();
  if (blob.size() != blob_size || base64_encoded(blob) != base || load_be<std::uint32_t>(blob, 0) != key_type.size() ||
      as_text(ByteSpan(blob).subspan(4, key_type.size())) != key_type || load_be<std::uint32_t>(blob, 15) != 32)
    throw Error("ENROL_INVALID", "a request holds no ed25519 key", printable(base, 80));
  return blob;
}

void check_plain_path(const std::string& what, const std::string& path) {
  const auto plain = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           std::string_view("/._-+@=").find(c) != std::string_view::npos;
  };
  if (!path.starts_with('/') || !std::ranges::all_of(path, plain))
    throw Error("SETTING_INVALID", fmt::format("{} \"{}\" can't stand in authorized_keys", what, printable(path)), {},
                "an absolute path of letters, digits and / . _ - + @ =");
}

} // namespace

std::string parse_public_key(std::string_view line) {
  line = trimmed(line);
  if (!line.starts_with(key_type) || line.size() <= key_type.size() + 1 || line[key_type.size()] != ' ')
    throw Error("ENROL_INVALID", "a request holds no ed25519 key", printable(line, 80));
  std::string_view base = line.substr(key_type.size() + 1);
  base = base.substr(0, base.find(' '));
  key_blob(base);
  return fmt::format("{} {}", key_type, base);
}

std::string enrol_code(const std::string& key, const std::string& fingerprint) {
  check_host_key(fingerprint);
  const Bytes blob = key_blob(std::string_view(key).substr(std::min(key.size(), key_type.size() + 1)));
  const std::string secret = std::string(as_text(blob)) + fingerprint;
  constexpr std::string_view salt = "kvmport enrolment 1";
  std::array<unsigned char, 7> digest{}; // 56 bits, of which 50 are shown
  if (::PKCS5_PBKDF2_HMAC(secret.data(), static_cast<int>(secret.size()),
                          reinterpret_cast<const unsigned char*>(salt.data()), static_cast<int>(salt.size()),
                          enrol_rounds, ::EVP_sha256(), digest.size(), digest.data()) != 1)
    throw Error("INTERNAL", "PBKDF2 failed");
  std::uint64_t bits = 0;
  for (const auto byte : digest)
    bits = bits << 8 | byte;
  std::string code;
  for (unsigned i = 0; i < 10; ++i) {
    if (i == 5)
      code += '-';
    code += "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"[bits >> (51 - 5 * i) & 31];
  }
  return code;
}

std::string normalized_code(std::string_view typed) {
  std::string out;
  for (char c : trimmed(typed)) {
    if (c == '-' || c == ' ')
      continue;
    c = c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
    if (!(c >= 'A' && c <= 'Z') && !(c >= '2' && c <= '7'))
      return {};
    out += c;
  }
  return out.size() == 10 ? out.insert(5, "-") : std::string();
}

std::string key_fingerprint_of(const std::string& line) {
  // Any key type: the server's host key may be of another than ours.
  const auto blank = line.find(' ');
  std::string_view base = blank == line.npos ? std::string_view() : std::string_view(line).substr(blank + 1);
  base = base.substr(0, base.find_first_of(" \n"));
  const auto fingerprint = ssh_fingerprint(base);
  if (!fingerprint)
    throw Error("ENROL_INVALID", "this is no public key", printable(line, 80));
  return *fingerprint;
}

std::string encode_request(const EnrolRequest& r) {
  return fmt::format("{}\n{}\n{}\n", greeting, r.key, r.name);
}

EnrolRequest decode_request(std::string_view text) {
  std::array<std::string_view, 3> lines;
  for (auto& line : lines) {
    const auto end = text.find('\n');
    if (end == text.npos)
      throw Error("ENROL_INVALID", "a request has not three lines");
    line = text.substr(0, end);
    text.remove_prefix(end + 1);
  }
  if (!text.empty() || lines[0] != greeting)
    throw Error("ENROL_INVALID", "this is no request of a medium, or one of another version", printable(lines[0], 40));
  EnrolRequest r{parse_public_key(lines[1]), std::string(lines[2])};
  check_guest_name(r.name);
  return r;
}

std::string authorized_line(const EnrolRequest& request, const std::string& program, const std::string& directory) {
  check_plain_path("the program", program);
  check_plain_path("the directory", directory);
  check_guest_name(request.name);
  return fmt::format("restrict,command=\"{} receive --only {}\" {} kvm-p2v:{}", program, directory,
                     parse_public_key(request.key), request.name);
}

void authorize(const fs::path& file, const std::string& line) {
  if (fs::create_directories(file.parent_path()))
    fs::permissions(file.parent_path(), fs::perms(0700));
  const UniqueFd fd(::open(file.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
  if (!fd)
    throw system_error(errno, file.string());
  const std::string old = read_file(file);
  if (("\n" + old).find("\n" + line + "\n") != std::string::npos)
    return;
  // One write, at the end: others may append too.
  const std::string added = (old.empty() || old.ends_with('\n') ? "" : "\n") + line + "\n";
  if (::write(fd.get(), added.data(), added.size()) != static_cast<ssize_t>(added.size()) || ::fsync(fd.get()) != 0)
    throw system_error(errno, file.string());
}

} // namespace kvmport
