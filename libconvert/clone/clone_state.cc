// SPDX-License-Identifier: Apache-2.0
#include "libconvert/clone/clone_state.h"

#include "base/error.h"
#include "libconvert/clone/taken.h"

#include <initializer_list>
#include <mutex>
#include <sqlite3.h>

namespace fs = std::filesystem;

namespace kvmport {
namespace {

using Database = std::unique_ptr<sqlite3, decltype(&::sqlite3_close)>;
using Statement = std::unique_ptr<sqlite3_stmt, decltype(&::sqlite3_finalize)>;

} // namespace

struct CloneRunState::State {
  explicit State(const fs::path& path) : file(path.string()), database(nullptr, &::sqlite3_close) {
    sqlite3* opened = nullptr;
    const int result = ::sqlite3_open_v2(path.c_str(), &opened,
                                         SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_FULLMUTEX, nullptr);
    database.reset(opened);
    if (result != SQLITE_OK)
      fail();
    ::sqlite3_busy_timeout(opened, 10000);
  }

  [[noreturn]] void fail() const {
    throw Error("STATE_FAILED", "the state of the run can't be kept in " + file, ::sqlite3_errmsg(database.get()),
                "remove the file to begin anew");
  }
  /// Runs one statement; the first column of the first row, when there is one.
  std::optional<std::string> run(const char* sql, std::initializer_list<std::string> values = {}) const {
    const std::lock_guard lock(mutex);
    sqlite3_stmt* prepared = nullptr;
    if (::sqlite3_prepare_v2(database.get(), sql, -1, &prepared, nullptr) != SQLITE_OK)
      fail();
    const Statement statement(prepared, &::sqlite3_finalize);
    int index = 0;
    for (const std::string& value : values)
      ::sqlite3_bind_text(prepared, ++index, value.c_str(), -1, SQLITE_TRANSIENT);
    std::optional<std::string> found;
    int step = SQLITE_ROW;
    while ((step = ::sqlite3_step(prepared)) == SQLITE_ROW)
      if (const auto* text = ::sqlite3_column_text(prepared, 0); text != nullptr && !found)
        found = reinterpret_cast<const char*>(text);
    if (step != SQLITE_DONE)
      fail();
    return found;
  }

  std::string file;
  mutable std::mutex mutex;
  Database database;
};

CloneRunState::CloneRunState(const fs::path& file, const std::string& settings)
    : state_(std::make_unique<State>(file)) {
  state_->run("CREATE TABLE IF NOT EXISTS run (settings TEXT, seed TEXT)");
  state_->run("CREATE TABLE IF NOT EXISTS clones (name TEXT PRIMARY KEY, uuid TEXT, state TEXT, error TEXT)");
  if (state_->run("SELECT settings FROM run") == settings)
    return;
  TakenIdentities none;
  state_->run("DELETE FROM clones");
  state_->run("DELETE FROM run");
  state_->run("INSERT INTO run VALUES (?, ?)", {settings, new_uuid(none)});
}

CloneRunState::~CloneRunState() = default;

std::string CloneRunState::seed() const {
  return state_->run("SELECT seed FROM run").value_or("");
}

std::optional<std::string> CloneRunState::uuid(const std::string& name) const {
  return state_->run("SELECT uuid FROM clones WHERE name = ?", {name});
}

bool CloneRunState::done(const std::string& name) const {
  return state_->run("SELECT state FROM clones WHERE name = ?", {name}) == "done";
}

void CloneRunState::remember_uuid(const std::string& name, const std::string& uuid) {
  state_->run("INSERT INTO clones VALUES (?, ?, 'begun', '') "
              "ON CONFLICT (name) DO UPDATE SET uuid = excluded.uuid, state = 'begun', error = ''",
              {name, uuid});
}

void CloneRunState::remember_done(const std::string& name) {
  state_->run("UPDATE clones SET state = 'done', error = '' WHERE name = ?", {name});
}

void CloneRunState::remember_failed(const std::string& name, const std::string& error) {
  state_->run("UPDATE clones SET state = 'failed', error = ? WHERE name = ?", {error, name});
}

} // namespace kvmport
