/*
 * program: where a host looks for the program that its worker processes are, and where it must not look.
 *
 * Each test runs this program again, as somebody else might start it, and reads what it has found.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <fcntl.h>
#include <sys/auxv.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/base.h"
#include "host/program.h"

enum { NOT_SECURE = 77 };

static char directory[] = "/tmp/unsync-program-XXXXXX";
static char own[4096]; /* this program's file */

/* The program, run again: prints what it finds. With `secure` only where it has more rights than its starter. */
static int find(const char *secure) {
  if (strcmp(secure, "secure") == 0 && getauxval(AT_SECURE) == 0) return NOT_SECURE;
  char *found = uns_program_find(NULL);
  printf("%s", found != NULL ? found : "nothing");
  uns_free(found);
  return 0;
}

/* Runs `path`, called `name`, in the directory. Its exit code; `found` is what it prints. */
static int run(const char *path, const char *name, const char *mode, char *found, size_t room) {
  int ends[2];
  assert_int_equal(pipe(ends), 0);
  fflush(NULL);
  pid_t child = fork();
  if (child == 0) {
    if (dup2(ends[1], STDOUT_FILENO) < 0 || chdir(directory) != 0) _exit(1);
    execl(path, name, mode, (char *)NULL);
    _exit(1);
  }
  close(ends[1]);
  size_t size = 0;
  for (ssize_t got; size < room - 1 && (got = read(ends[0], found + size, room - 1 - size)) > 0;) size += (size_t)got;
  found[size] = '\0';
  close(ends[0]);
  int status;
  assert_int_equal(waitpid(child, &status, 0), child);
  assert_true(WIFEXITED(status));
  return WEXITSTATUS(status);
}

static void copy_file(const char *from, const char *to, mode_t mode) {
  int source = open(from, O_RDONLY), target = open(to, O_WRONLY | O_CREAT | O_TRUNC, 0700);
  struct stat info = {0};
  assert_true(source >= 0 && target >= 0 && fstat(source, &info) == 0);
  for (off_t done = 0; done < info.st_size;)
    assert_true(sendfile(target, source, &done, (size_t)(info.st_size - done)) > 0);
  if (geteuid() == 0) assert_int_equal(fchown(target, 65534, 65534), 0);
  assert_int_equal(fchmod(target, mode), 0);
  close(source);
  close(target);
}

/* A program that the shell has found by its name is not looked beside in the directory that it was started in. */
static void is_not_whatever_lies_here(void **state) {
  (void)state;
  char found[4096];
  unsetenv("UNSYNC_WORKER");
  assert_int_equal(run(own, "embedder", "plain", found, sizeof found), 0);
  assert_null(strstr(found, directory));
}

static void lies_beside_the_program(void **state) {
  (void)state;
  char found[4096], copy[4096], beside[4096];
  unsetenv("UNSYNC_WORKER");
  snprintf(copy, sizeof copy, "%s/embedder", directory);
  snprintf(beside, sizeof beside, "%s/unsync", directory);
  copy_file(own, copy, 0755);
  assert_int_equal(run(copy, "embedder", "plain", found, sizeof found), 0);
  assert_string_equal(found, beside);
  unlink(copy);
}

/* As in an installed tree, PREFIX/lib/unsync being where the plugins are. */
static void is_no_directory_of_that_name(void **state) {
  (void)state;
  char found[4096], library[4096], programs[4096], copy[4096], beside[4096], program[4096];
  unsetenv("UNSYNC_WORKER");
  snprintf(library, sizeof library, "%s/lib", directory);
  snprintf(programs, sizeof programs, "%s/bin", directory);
  snprintf(copy, sizeof copy, "%s/lib/embedder", directory);
  snprintf(beside, sizeof beside, "%s/lib/unsync", directory);
  snprintf(program, sizeof program, "%s/bin/unsync", directory);
  assert_true(mkdir(library, 0755) == 0 && mkdir(programs, 0755) == 0 && mkdir(beside, 0755) == 0);
  copy_file(own, copy, 0755);
  copy_file(own, program, 0755);
  assert_int_equal(run(copy, "embedder", "plain", found, sizeof found), 0);
  assert_string_equal(found, program);
  assert_true(unlink(copy) == 0 && unlink(program) == 0);
  assert_true(rmdir(beside) == 0 && rmdir(library) == 0 && rmdir(programs) == 0);
}

static void is_what_the_user_says(void **state) {
  (void)state;
  char found[4096];
  setenv("UNSYNC_WORKER", "/nowhere/worker", 1);
  assert_int_equal(run(own, "embedder", "plain", found, sizeof found), 0);
  assert_string_equal(found, "/nowhere/worker");
}

/* Who starts a program that has other rights than his own does not say what it runs with them. */
static void is_not_what_a_user_with_fewer_rights_says(void **state) {
  (void)state;
  char found[4096], copy[4096];
  const char *slowness = getenv("UNSYNC_SLOWNESS");
  if (geteuid() != 0 || (slowness != NULL && atoi(slowness) > 1))
    skip(); /* sanitizers do not work with others' rights */
  setenv("UNSYNC_WORKER", "/nowhere/worker", 1);
  snprintf(copy, sizeof copy, "%s/embedder", directory);
  copy_file(own, copy, 04755);
  int code = run(copy, "embedder", "secure", found, sizeof found);
  unlink(copy);
  if (code == NOT_SECURE) skip(); /* a file system where nobody gets rights */
  assert_int_equal(code, 0);
  assert_null(strstr(found, "nowhere"));
}

static int make_directory(void **state) {
  (void)state;
  char resolved[4096], decoy[4096];
  ssize_t size = readlink("/proc/self/exe", own, sizeof own - 1);
  if (size < 0 || mkdtemp(directory) == NULL || realpath(directory, resolved) == NULL) return -1;
  own[size] = '\0';
  if (chmod(directory, 0755) != 0) return -1;
  snprintf(decoy, sizeof decoy, "%s/unsync", directory);
  int fd = open(decoy, O_WRONLY | O_CREAT, 0700);
  return fd < 0 ? -1 : close(fd);
}

static int remove_directory(void **state) {
  (void)state;
  char decoy[4096];
  snprintf(decoy, sizeof decoy, "%s/unsync", directory);
  unlink(decoy);
  return rmdir(directory);
}

int main(int argc, char **argv) {
  if (argc == 2 && (strcmp(argv[1], "plain") == 0 || strcmp(argv[1], "secure") == 0)) return find(argv[1]);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(is_not_whatever_lies_here),
      cmocka_unit_test(lies_beside_the_program),
      cmocka_unit_test(is_no_directory_of_that_name),
      cmocka_unit_test(is_what_the_user_says),
      cmocka_unit_test(is_not_what_a_user_with_fewer_rights_says),
  };
  return cmocka_run_group_tests_name("program", tests, make_directory, remove_directory);
}
