// SPDX-License-Identifier: Apache-2.0
// A thread that writes to a filesystem all the time: new files, an old one in place, deletions, a file that is deleted
// but open. It remembers what it has synced and when, so that a copy can be compared.
#pragma once

#include "tests/support/tempdir.h"

#include <atomic>
#include <chrono>
#include <fcntl.h>
#include <fstream>
#include <map>
#include <mutex>
#include <random>
#include <sstream>
#include <thread>
#include <unistd.h>

namespace kvmport::test {

namespace fs = std::filesystem;

class LiveWriter {
 public:
  using Clock = std::chrono::steady_clock;
  struct Verdict {
    unsigned compared = 0;
    std::vector<std::string> wrong;
  };

  explicit LiveWriter(fs::path directory) : directory_(std::move(directory)) {
    thread_ = std::jthread([this](const std::stop_token& stop) { run(stop); });
  }
  unsigned written() const { return written_; }
  /// Waits until so many files were written.
  void run_until(unsigned files) const {
    for (const auto end = Clock::now() + std::chrono::seconds(120); written_ < files;) {
      if (Clock::now() > end)
        throw std::runtime_error("the writer hangs");
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
  }
  void pause(bool paused) { paused_ = paused; }
  void stop() {
    thread_.request_stop();
    thread_.join();
  }

  /// After stop(): all that was synced before `moment` and not touched later must be in `copy` as it was.
  Verdict compare(const fs::path& copy, Clock::time_point moment) const {
    Verdict verdict;
    for (const auto& [name, file] : files_) {
      if (file.synced >= moment || file.removing < moment)
        continue;
      verdict.compared++;
      if (content(copy / name) != text_of(file.seed, file.size))
        verdict.wrong.push_back(name);
    }
    // Each block of the old file counts its syncs: what was synced must be there, and what is later may be.
    std::ifstream blocks(copy / "blocks", std::ios::binary);
    for (unsigned i = 0; i < block_count; i++) {
      std::string block(block_size, '\0');
      blocks.seekg(static_cast<std::streamoff>(i * block_size));
      blocks.read(block.data(), static_cast<std::streamsize>(block.size()));
      unsigned wanted = 0;
      for (const auto& [when, count] : block_syncs_[i])
        wanted = when < moment ? count : wanted;
      if (wanted == 0)
        continue;
      verdict.compared++;
      const unsigned found = static_cast<unsigned>(std::strtoul(block.c_str(), nullptr, 10));
      if (found < wanted || block != block_text(found))
        verdict.wrong.push_back("block " + std::to_string(i) + ": " + std::to_string(found) + " instead of " +
                                std::to_string(wanted));
    }
    return verdict;
  }

 private:
  static constexpr unsigned block_count = 200, block_size = 4096;
  struct File {
    unsigned seed = 0;
    std::size_t size = 0;
    Clock::time_point synced, removing = Clock::time_point::max();
  };

  static std::string text_of(unsigned seed, std::size_t size) {
    std::mt19937 random(seed);
    std::string text(size, '\0');
    for (char& c : text)
      c = static_cast<char>(random());
    return text;
  }
  static std::string block_text(unsigned count) {
    std::string text = std::to_string(count) + " ";
    text.resize(block_size, static_cast<char>('a' + count % 26));
    return text;
  }
  static std::string content(const fs::path& path) {
    std::ifstream in(path, std::ios::binary);
    std::ostringstream all;
    all << in.rdbuf();
    return all.str();
  }
  static void write_synced(const fs::path& path, std::string_view text, std::uint64_t offset, int flags) {
    const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | flags, 0644));
    write_exact(fd.get(), offset, as_bytes(text), path.string());
    if (::fsync(fd.get()) != 0)
      throw std::runtime_error("fsync");
  }

  void run(const std::stop_token& stop) {
    std::mt19937 random(1);
    const UniqueFd open_and_deleted(::open((directory_ / "gone").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
    fs::remove(directory_ / "gone");
    write_synced(directory_ / "blocks", std::string(block_count * block_size, '0'), 0, 0);
    for (unsigned i = 1; !stop.stop_requested(); i++) {
      while (paused_ && !stop.stop_requested())
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
      const std::string name = "file" + std::to_string(i);
      File file{i, 1 + random() % (i % 10 == 0 ? 600000 : 60000), {}, Clock::time_point::max()};
      write_synced(directory_ / name, text_of(file.seed, file.size), 0, 0);
      file.synced = Clock::now();
      files_[name] = file;
      for (unsigned k = 0; k < 3; k++) {
        const unsigned block = random() % block_count;
        const unsigned count = block_syncs_[block].empty() ? 1 : block_syncs_[block].back().second + 1;
        write_synced(directory_ / "blocks", block_text(count), std::uint64_t{block} * block_size, 0);
        block_syncs_[block].emplace_back(Clock::now(), count);
      }
      write_exact(open_and_deleted.get(), std::uint64_t{i % 100} * 8192, as_bytes(block_text(i)), "gone");
      if (i % 3 == 0 && i > 30) {
        const std::string old = "file" + std::to_string(i - 30);
        files_[old].removing = Clock::now();
        fs::remove(directory_ / old);
      }
      written_ = i;
    }
  }

  const fs::path directory_;
  std::atomic<unsigned> written_{0};
  std::atomic<bool> paused_{false};
  std::map<std::string, File> files_; ///< of the thread alone, until it ends
  std::vector<std::pair<Clock::time_point, unsigned>> block_syncs_[block_count];
  std::jthread thread_; ///< last: it ends before the rest goes
};

} // namespace kvmport::test
