#include "host/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <lua.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "core/placement.h"
#include "exec/child.h"
#include "exec/watchdog.h"
#include "host/dump.h"
#include "host/explain.h"
#include "host/lines.h"
#include "host/program.h"
#include "host/repl.h"
#include "host/script.h"
#include "host/seeing.h"
#include "host/signals.h"
#include "host/state.h"
#include "unsync.h"

enum { GRACE_MAX_S = 86400 };

static const char usage_text[] =
    "usage: unsync [options] [script [args]]\n"
    "       unsync test [options] [files]   run specs; `unsync test --help`\n"
    "  -e CODE   run CODE\n"
    "  -i        then go on interactively\n"
    "  -l MOD    require MOD into global MOD; -l G=MOD into global G\n"
    "  -         run stdin as the script, and stop reading options\n"
    "  --place NAME=WHERE,…   run functions of that name on io, thread or cpu; PREFIX*=…, *.cpu=…\n"
    "  --trace FILE   write what runs where and when, for ui.perfetto.dev\n"
    "  --stats   print counts and latencies by function at the end\n"
    "  -v        print the version\n"
    "  -h        print this\n"
    "  --        stop reading options\n"
    "Without a script and code it is interactive; .help says more there.\n"
    "The script is the root task: it may await anywhere, and the program ends when all that it started has ended.\n"
    "UNSYNC_STALL=S in the environment: tell of a loop that is held for S seconds (default: for 0.2 s while something\n"
    "else is due); 0: never.\n";

typedef struct {
  uns_step *steps; /* owned; argc + 1 of them at most */
  int step_count;
  int script_index; /* in argv; argc: none */
  bool version, help;
  uns_seeing seeing;
  char *placement;  /* core/placement.h; owned, or NULL */
  bool interactive; /* -i */
  bool has_code;    /* -e, or a script */
} options;

/* Two pieces of text around what was wrong. */
static int misuse(const char *before, const char *what, const char *after) {
  fprintf(stderr, "unsync: %s'%s'%s\n%s", before, what, after, usage_text);
  return 1;
}

/* An option that does not exist, and the one that was probably meant. */
static int unknown(const char *text) {
  static const char *const known[] = {"--trace", "--stats", "--place", "--version", "--help", NULL};
  char option[64];
  snprintf(option, sizeof option, "%.*s", (int)strcspn(text, "="), text);
  const char *meant = strncmp(option, "--", 2) == 0 ? uns_explain_meant(option, known) : NULL;
  if (meant == NULL) return misuse("unrecognized option ", text, "");
  fprintf(stderr, "unsync: unrecognized option '%s': did you mean `%s`?\n", text, meant);
  return 1;
}

/* Reads one option that takes a value, which may be glued to it. NULL if it is missing. */
static const char *value_of(int argc, char **argv, int *i) {
  if (argv[*i][2] != '\0') return argv[*i] + 2;
  return *i + 1 < argc ? argv[++*i] : NULL;
}

/* True if `text` is the long option, whose value, glued by "=" or the next argument, goes to `value`; NULL: it is missing. */
static bool long_option(int argc, char **argv, int *i, const char *option, const char **value) {
  size_t length = strlen(option);
  if (strncmp(argv[*i], option, length) != 0) return false;
  if (argv[*i][length] == '=') *value = argv[*i] + length + 1;
  else if (argv[*i][length] == '\0') *value = *i + 1 < argc ? argv[++*i] : NULL;
  else return false;
  return true;
}

/* `unsync test …`: a script of ours, whose name is the first argument. */
static bool is_test_command(int argc, char **argv) { return argc > 1 && strcmp(argv[1], "test") == 0; }

static int no_start(const char *what) {
  fprintf(stderr, "unsync: cannot start: %s: %s\n", what, strerror(errno));
  return 1;
}

/* "fib=io,*.cpu=thread": added to the rules. 0, or the exit code after a message. */
static int add_placement(options *read, const char *text) {
  while (*text != '\0') {
    size_t length = strcspn(text, ",");
    const char *equals = memrchr(text, '=', length);
    uns_kind kind;
    if (equals == NULL || !uns_placement_is_pattern(text, (size_t)(equals - text))) {
      fprintf(stderr, "unsync: --place: '%.*s' is no NAME=WHERE, where NAME is %s\n", (int)length, text,
              uns_placement_patterns);
      return 1;
    }
    size_t kind_length = length - (size_t)(equals + 1 - text);
    if (!uns_placement_kind(equals + 1, kind_length, &kind)) {
      fprintf(stderr, "unsync: --place: '%.*s' is no executor: io, thread and cpu are\n", (int)kind_length, equals + 1);
      return 1;
    }
    char *more = uns_placement_with(read->placement, text, (size_t)(equals - text), kind);
    if (more == NULL) return no_start("memory");
    uns_free(read->placement);
    read->placement = more;
    text += length + (text[length] == ',');
  }
  return 0;
}

/* 0, or the exit code after a message. */
static int read_options(int argc, char **argv, options *read) {
  if (is_test_command(argc, argv)) {
    static const char start[] = "require('unsync.testing.command').main(...)";
    read->script_index = 1;
    read->steps[read->step_count++] = (uns_step){.kind = UNS_STEP_CODE, .text = start, .name = "=unsync test"};
    read->has_code = true;
    return 0;
  }
  int i = 1;
  for (; i < argc; i++) {
    const char *text = argv[i];
    if (text[0] != '-' || strcmp(text, "-") == 0) break;
    if (strcmp(text, "--") == 0) {
      i++;
      break;
    }
    const char *given;
    if (long_option(argc, argv, &i, "--trace", &given)) {
      if (given == NULL || *given == '\0') return misuse("", "--trace", " needs the name of a file");
      read->seeing.trace_path = given;
    } else if (long_option(argc, argv, &i, "--place", &given)) {
      if (given == NULL || *given == '\0') return misuse("", "--place", " needs NAME=WHERE");
      if (add_placement(read, given) != 0) return 1;
    } else if (strcmp(text, "--stats") == 0) {
      read->seeing.stats = true;
    } else if (strcmp(text, "-v") == 0 || strcmp(text, "--version") == 0) {
      read->version = true;
    } else if (strcmp(text, "-h") == 0 || strcmp(text, "--help") == 0) {
      read->help = true;
    } else if (strcmp(text, "-i") == 0) {
      read->interactive = true;
    } else if (text[1] == 'e' || text[1] == 'l') {
      uns_step_kind kind = text[1] == 'e' ? UNS_STEP_CODE : UNS_STEP_REQUIRE;
      const char *value = value_of(argc, argv, &i);
      if (value == NULL) return misuse("", text, " needs an argument");
      read->steps[read->step_count++] = (uns_step){.kind = kind, .text = value};
      if (kind == UNS_STEP_CODE) read->has_code = true;
    } else {
      return unknown(text);
    }
  }
  read->script_index = i;
  if (i < argc) {
    const char *path = strcmp(argv[i], "-") == 0 ? NULL : argv[i];
    read->has_code = true;
    read->steps[read->step_count++] = (uns_step){.kind = UNS_STEP_FILE, .text = path};
  }
  return 0;
}

/* LUA_INIT, as lua.c reads it: "@file" or code. False if there is none. */
static bool init_step(uns_step *step) {
  const char *name = "=LUA_INIT_5_4", *text = getenv(name + 1);
  if (text == NULL) text = getenv((name = "=LUA_INIT") + 1);
  if (text == NULL) return false;
  if (*text == '@') *step = (uns_step){.kind = UNS_STEP_FILE, .text = text + 1, .init = true};
  else *step = (uns_step){.kind = UNS_STEP_CODE, .text = text, .name = name, .init = true};
  return true;
}

static void on_sigpipe(int number) { (void)number; }

/* Writing to a closed pipe is an error like any other. Not SIG_IGN, which children would inherit. */
static void catch_sigpipe(void) {
  struct sigaction action = {.sa_handler = on_sigpipe};
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  sigaction(SIGPIPE, &action, NULL);
}

/* The directory of a script, absolute, for the script may go elsewhere. NULL without memory. */
static char *directory_of(const char *path) {
  const char *slash = strrchr(path, '/');
  size_t size = slash == NULL ? 1 : slash == path ? 1 : (size_t)(slash - path);
  char *directory = uns_malloc(size + 1);
  if (directory == NULL) return NULL;
  memcpy(directory, slash == NULL ? "." : path, size);
  directory[size] = '\0';
  char *absolute = uns_program_absolute(directory);
  uns_free(directory);
  return absolute;
}

/* UNSYNC_GRACE, in seconds: what calls that name none have between being asked to stop and being made to. */
static bool read_grace(uns_executors *executors) {
  const char *text = getenv("UNSYNC_GRACE");
  if (text == NULL) return true;
  char *end;
  double seconds = strtod(text, &end);
  if (end == text || *end != '\0' || !(seconds >= 0 && seconds <= GRACE_MAX_S)) {
    fprintf(stderr, "unsync: UNSYNC_GRACE: a number of seconds from 0 to %d expected, got '%s'\n", GRACE_MAX_S, text);
    return false;
  }
  executors->grace_ns = (uint64_t)(seconds * 1e9);
  return true;
}

static int run(const uns_script *script, const char *script_path, options *asked) {
  uns_executors *executors = uns_executors_new();
  if (executors == NULL) return no_start("memory");
  if (!uns_watchdog_read_environment(executors)) {
    fprintf(stderr, "unsync: UNSYNC_STALL is no number of seconds: '%s'\n", getenv("UNSYNC_STALL"));
    uns_executors_free(executors);
    return 1;
  }
  if (!read_grace(executors)) {
    uns_executors_free(executors);
    return 1;
  }
  int code = uns_seeing_begin(&asked->seeing, executors);
  if (code != 0) {
    uns_executors_free(executors);
    return code;
  }
  executors->signals_changed = uns_signals_restore;
  executors->new_state = uns_state_new;
  executors->free_state = uns_state_free;
  errno = 0;
  executors->program = uns_program_self();
  if (script_path != NULL) executors->script_directory = directory_of(script_path);
  /* Where the program is may be unknown; then only worker processes are missing. */
  bool fine = (executors->program != NULL || errno != ENOMEM) &&
              (script_path == NULL || executors->script_directory != NULL);
  uns_runtime *runtime = fine ? uns_state_new(executors) : NULL;
  if (runtime == NULL) {
    uns_executors_free(executors);
    uns_seeing_end();
    uns_seeing_free();
    return no_start("the script's state");
  }
  executors->main_runtime = runtime;
  runtime->placement = asked->placement;
  asked->placement = NULL;
  uns_seeing_watch(runtime);
  uns_watchdog_offer(runtime);
  uns_dump_of(runtime);
  code = uns_script_run(runtime, script);
  uns_dump_no_more_of(runtime);
  if (!uns_executors_free(executors)) { /* a thread is stuck in foreign code: nothing it may touch is taken away */
    uns_seeing_end();
    uns_lines_close(); /* what a session has on its way to the terminal */
    fflush(NULL);
    _exit(code);
  }
  uns_state_free(runtime);
  uns_seeing_end();
  uns_seeing_free();
  return code;
}

/* The same, with a session whose first lines are the steps of `script`. */
static int run_session(const uns_script *script, const char *script_path, options *asked) {
  uns_repl *repl = uns_repl_new(script);
  if (repl == NULL) return no_start("memory");
  uns_step step = uns_repl_step(repl);
  uns_script session = *script;
  session.steps = &step;
  session.step_count = 1;
  session.attendant = uns_repl_attendant(repl);
  int code = run(&session, script_path, asked);
  uns_repl_free(repl);
  return code;
}

static uns_runtime *new_child_state(uns_executors *executors) {
  if (executors->main_runtime == NULL) executors->signals_changed = uns_dump_restore;
  uns_runtime *runtime = uns_state_new(executors);
  if (runtime != NULL) uns_dump_of(runtime);
  return runtime;
}

static void free_child_state(uns_runtime *runtime) {
  uns_dump_no_more_of(runtime);
  uns_state_free(runtime);
}

/*
 * Standard descriptors that are closed are filled, so that nothing of ours (libuv would object) gets their numbers. The
 * wrong way round, so that using them is still an error.
 */
static void fill_standard_descriptors(void) {
  for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
    if (fcntl(fd, F_GETFD) >= 0 || errno != EBADF) continue;
    if (open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY) < 0) return;
  }
}

int uns_cli_main(int argc, char **argv) {
  uns_dump_install();
  fill_standard_descriptors();
  if (argc > 1 && strcmp(argv[1], UNS_CHILD_OPTION) == 0)
    return uns_child_main(argc, argv, new_child_state, free_child_state);
  options read = {.steps = uns_calloc((size_t)argc + 2, sizeof(uns_step))};
  if (read.steps == NULL) return no_start("memory");
  if (init_step(&read.steps[0])) read.step_count = 1;
  int first = read.step_count;
  int code = read_options(argc, argv, &read);
  if (code == 0 && read.help) {
    fputs(usage_text, stdout);
  } else if (code == 0 && read.version) {
    printf("unsync %s (%s, libuv %s)\n", UNSYNC_VERSION, LUA_RELEASE, uv_version_string());
  }
  bool told = read.help || read.version; /* and that is all that was asked for, unless there is something to run */
  if (code == 0 && (read.step_count > first || read.interactive || !told)) {
    catch_sigpipe();
    read.seeing.title = read.script_index < argc ? argv[read.script_index] : "-e";
    uns_script script = {.steps = read.steps,
                         .step_count = read.step_count,
                         .argc = argc,
                         .argv = argv,
                         .script_index = read.script_index < argc ? read.script_index : 0};
    const char *path = read.script_index < argc ? argv[read.script_index] : NULL;
    code = read.interactive || !(read.has_code || told) ? run_session(&script, path, &read) : run(&script, path, &read);
  }
  uns_free(read.placement);
  uns_free(read.steps);
  return code;
}
