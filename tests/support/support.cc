// SPDX-License-Identifier: Apache-2.0
#include "base/process.h"
#include "tests/support/tempdir.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <random>
#include <stdexcept>
#include <sys/file.h>
#include <unistd.h>

namespace fs = std::filesystem;

namespace kvmport::test {

std::string must_run(const std::vector<std::string>& argv, const fs::path& directory) {
  ProcessResult result = run_process(argv, std::chrono::minutes(10), directory);
  if (result.exit_code != 0)
    throw std::runtime_error(argv[0] + " failed (" + std::to_string(result.exit_code) + "): " + result.err);
  return result.out;
}

std::string sha256_of(const fs::path& path) {
  UniqueFd fd = open_source(path);
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  EVP_DigestInit_ex(context, EVP_sha256(), nullptr);
  Bytes buffer(1U << 20);
  for (std::uint64_t at = 0;;) {
    std::size_t n = read_some(fd.get(), at, buffer, path.string());
    EVP_DigestUpdate(context, buffer.data(), n);
    at += n;
    if (n < buffer.size())
      break;
  }
  unsigned char digest[32];
  EVP_DigestFinal_ex(context, digest, nullptr);
  EVP_MD_CTX_free(context);
  std::string hex;
  for (unsigned char c : digest) {
    hex += "0123456789abcdef"[c >> 4];
    hex += "0123456789abcdef"[c & 15];
  }
  return hex;
}

void make_pattern_file(const fs::path& path, std::uint64_t size, unsigned seed) {
  UniqueFd fd = create_new(path);
  if (::ftruncate(fd.get(), static_cast<off_t>(size)) != 0)
    throw system_error(errno, "can't size " + path.string());
  std::mt19937_64 random(seed);
  for (std::uint64_t at = 0; at < size;) {
    const std::uint64_t length = std::min<std::uint64_t>(size - at, 512 * (1 + random() % 1024));
    const unsigned kind = random() % 4;
    Bytes block(length);
    if (kind == 0) {
      for (std::uint64_t i = 0; i < length; i++)
        block[i] = static_cast<std::byte>("the quick brown fox\n"[(at + i) % 20]);
    } else if (kind == 1) {
      for (auto& b : block)
        b = static_cast<std::byte>(random());
    }
    if (kind != 3) // 3: a hole
      write_exact(fd.get(), at, block, path.string());
    at += length;
  }
}

fs::path sample_images() {
  const fs::path archive = fs::absolute("../shared/images/images.tar.zst");
  if (!fs::exists(archive))
    return {};
  const fs::path directory = fs::absolute("build/samples");
  const fs::path stamp = directory / ".complete";
  fs::create_directories(directory);
  UniqueFd lock(::open((directory / ".lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
  ::flock(lock.get(), LOCK_EX);
  if (!fs::exists(stamp)) {
    must_run({"tar", "--zstd", "-xf", archive.string(), "-C", directory.string()});
    write_file_durably(stamp, "");
  }
  return directory;
}

} // namespace kvmport::test
