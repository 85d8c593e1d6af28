// SPDX-License-Identifier: Apache-2.0
#include "libconvert/machine/manifest.h"

#include "base/late_library.h"
#include "libconvert/machine/text.h"

#include <memory>
#include <openssl/evp.h>

// Its relocations would cost every start of a command a millisecond.
#define KVMPORT_CRYPTO(function) KVMPORT_LATE("libcrypto.so.3", function)

namespace kvmport {
namespace {

struct Algorithm {
  const char* name;
  std::size_t hex_digits;
};
constexpr Algorithm algorithms[] = {{"sha1", 40}, {"sha256", 64}, {"sha512", 128}};

const Algorithm* find_algorithm(std::string_view name) {
  for (const Algorithm& a : algorithms)
    if (a.name == name)
      return &a;
  return nullptr;
}

} // namespace

struct Digest::State {
  std::string name;
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context{KVMPORT_CRYPTO(EVP_MD_CTX_new)(),
                                                                  KVMPORT_CRYPTO(EVP_MD_CTX_free)};
};

Digest::Digest(const std::string& like) : state_(std::make_unique<State>()) {
  state_->name = like.substr(0, like.find(':'));
  const Algorithm* algorithm = find_algorithm(state_->name);
  if (algorithm == nullptr || !state_->context ||
      KVMPORT_CRYPTO(EVP_DigestInit_ex)(state_->context.get(), KVMPORT_CRYPTO(EVP_get_digestbyname)(algorithm->name),
                                        nullptr) != 1)
    throw Error("INTERNAL", "no digest " + state_->name);
}

Digest::~Digest() = default;

void Digest::add(ByteSpan bytes) {
  KVMPORT_CRYPTO(EVP_DigestUpdate)(state_->context.get(), bytes.data(), bytes.size());
}

std::string Digest::result() {
  unsigned char raw[EVP_MAX_MD_SIZE];
  unsigned length = 0;
  KVMPORT_CRYPTO(EVP_DigestFinal_ex)(state_->context.get(), raw, &length);
  std::string text = state_->name + ":";
  for (unsigned i = 0; i < length; i++) {
    text += "0123456789abcdef"[raw[i] >> 4];
    text += "0123456789abcdef"[raw[i] & 15];
  }
  return text;
}

Manifest parse_manifest(const std::string& text, const std::string& name) {
  Manifest manifest;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    const std::string_view line = trimmed(std::string_view(text).substr(at, end - at));
    at = end + 1;
    if (line.empty() || line.front() == '\0')
      continue;
    const std::size_t open = line.find('('), equals = line.rfind('=');
    const std::size_t close = equals == std::string_view::npos ? equals : line.rfind(')', equals);
    const Algorithm* algorithm =
        open == std::string_view::npos ? nullptr : find_algorithm(lower(trimmed(line.substr(0, open))));
    if (algorithm == nullptr || close == std::string_view::npos || close < open ||
        !trimmed(line.substr(close + 1, equals - close - 1)).empty())
      throw Error("DESCRIPTION_INVALID", "the manifest " + name + " has a line that is not understood",
                  printable(line));
    const std::string file(line.substr(open + 1, close - open - 1)), hex = lower(trimmed(line.substr(equals + 1)));
    if (hex.size() != algorithm->hex_digits || hex.find_first_not_of("0123456789abcdef") != std::string::npos)
      throw Error("DESCRIPTION_INVALID", "the manifest " + name + " has a digest that is not understood",
                  printable(line));
    const std::string digest = std::string(algorithm->name) + ":" + hex;
    auto [entry, fresh] = manifest.try_emplace(file, digest);
    if (fresh || entry->second == digest)
      continue;
    const std::string before = entry->second.substr(0, entry->second.find(':'));
    if (before == algorithm->name)
      throw Error("DESCRIPTION_INVALID", "the manifest " + name + " contradicts itself about " + printable(file));
    if (find_algorithm(before)->hex_digits < algorithm->hex_digits)
      entry->second = digest;
  }
  return manifest;
}

std::string digest_of(std::string_view text, const std::string& like) {
  Digest digest(like);
  digest.add(as_bytes(text));
  return digest.result();
}

Error manifest_mismatch(const std::string& name, const std::string& why) {
  return Error("MANIFEST_MISMATCH", printable(name) + " is not what the manifest promises", why,
               "export or download the package again; without its .mf file it is taken unchecked");
}

} // namespace kvmport
