#include "host/editor.h"

#include <dlfcn.h>
#include <errno.h>
#include <histedit.h>
#include <locale.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>
#include <wchar.h>
#include <wctype.h>

#include "host/signals.h"
#include "host/terminal.h"

#define LIBRARY "libedit.so.2"

enum {
  HISTORY_MAX = 1000,
  BULK_FROM = 4096,    /* characters of one line, after which what follows was not typed: it is taken in pieces */
  BULK_MAX = 64 << 20, /* bytes of such a piece */
  BULK_PAUSE_MS = 20,  /* that end it */
  LISTED_MAX = 200     /* candidates that are shown */
};

/* ---- libedit, without linking it ---- */

static struct {
  EditLine *(*init)(const char *, FILE *, FILE *, FILE *, int, int, int);
  void (*end)(EditLine *);
  int (*set)(EditLine *, int, ...);
  int (*wset)(EditLine *, int, ...);
  const char *(*gets)(EditLine *, int *);
  int (*source)(EditLine *, const char *);
  void (*resize)(EditLine *);
  const LineInfo *(*line)(EditLine *);
  const LineInfoW *(*wline)(EditLine *);
  int (*insert)(EditLine *, const char *);
  History *(*history_init)(void);
  void (*history_end)(History *);
  int (*history)(History *, HistEvent *, int, ...);
} edit;

static bool load(void) {
  static const struct {
    const char *name;
    void *place;
  } symbols[] = {{"el_init_fd", &edit.init},
                 {"el_end", &edit.end},
                 {"el_set", &edit.set},
                 {"el_gets", &edit.gets},
                 {"el_source", &edit.source},
                 {"el_resize", &edit.resize},
                 {"el_line", &edit.line},
                 {"el_wline", &edit.wline},
                 {"el_insertstr", &edit.insert},
                 {"el_wset", &edit.wset},
                 {"history_init", &edit.history_init},
                 {"history_end", &edit.history_end},
                 {"history", &edit.history}};
  void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
  if (library == NULL) return false;
  for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++) {
    void *symbol = dlsym(library, symbols[i].name);
    if (symbol == NULL) return false;
    memcpy(symbols[i].place, &symbol, sizeof symbol);
  }
  return true;
}

/* ---- state ---- */

static struct {
  bool open;
  EditLine *el;
  History *history;
  locale_t locale, outside; /* libedit's, and the one that everybody else has */
  struct termios cooked;    /* the terminal's modes, when nobody edits */
  struct sigaction before_winch, before_cont;
  volatile sig_atomic_t editing, resized, continued;
  uns_mailbox *mailbox;     /* of the loop that turns; borrowed, while a line is read */
  const uns_turner *turner; /* the same */
  uns_editor_complete *complete;
  const char *prompt;
  unsigned columns, rows;
  size_t typed;      /* characters of this line */
  uns_lines_end end; /* why there are no more characters */
  char *queue;       /* owned: bytes that were taken and not looked at yet */
  size_t queue_at, queue_size;
  char *text; /* owned: the line that was returned last */
} editor;

static void measure(void) {
  struct winsize size;
  bool known = ioctl(fileno(uns_terminal_screen()), TIOCGWINSZ, &size) == 0 && size.ws_col > 0 && size.ws_row > 0;
  editor.columns = known ? size.ws_col : 80;
  editor.rows = known ? size.ws_row : 24;
}

/* ---- drawing ---- */

/* Moves the place where the next character goes as libedit does. */
static void advance(wint_t character, unsigned *row, unsigned *column) {
  int width;
  if (character == L'\n') {
    (*row)++;
    *column = 0;
    return;
  }
  if (character == L'\t') width = (int)(8 - *column % 8);
  else if (character < 32 || character == 127) width = 2; /* ^C */
  else if (iswprint(character)) width = wcwidth((wchar_t)character);
  else width = character > 0xFFFF ? 8 : 7; /* \U+1234 */
  if (width < 0) width = 0;
  if (*column + (unsigned)width > editor.columns) { /* a wide one is not cut */
    (*row)++;
    *column = 0;
  }
  *column += (unsigned)width;
  if (*column >= editor.columns) {
    (*row)++;
    *column = 0;
  }
}

/* How many rows below the beginning of the prompt the cursor is. */
static unsigned cursor_row(void) {
  unsigned row = 0, column = 0;
  mbstate_t state = {0};
  const char *text = editor.prompt, *end = text + strlen(text);
  while (text < end) {
    wchar_t character;
    size_t size = mbrtowc(&character, text, (size_t)(end - text), &state);
    if (size == 0 || size > (size_t)(end - text)) break;
    advance((wint_t)character, &row, &column);
    text += size;
  }
  const LineInfoW *line = edit.wline(editor.el);
  for (const wchar_t *at = line->buffer; at < line->cursor; at++) advance((wint_t)*at, &row, &column);
  return row < editor.rows ? row : editor.rows - 1;
}

static void erase(FILE *screen) {
  locale_t before = uselocale(editor.locale);
  unsigned row = cursor_row();
  uselocale(before);
  fputc('\r', screen);
  if (row > 0) fprintf(screen, "\033[%uA", row);
  fputs("\033[J", screen);
}

static void draw(void) {
  locale_t before = uselocale(editor.locale);
  edit.set(editor.el, EL_REFRESH);
  uselocale(before);
}

static const uns_screen_line screen_line = {erase, draw};

static char *prompt_of(EditLine *el) {
  (void)el;
  return (char *)editor.prompt;
}

/* ---- signals ---- */

static void stir(void) {
  uns_input_stir();
  if (editor.mailbox != NULL) uns_mailbox_wake(editor.mailbox);
}

static void on_resize(int number) {
  (void)number;
  int saved = errno;
  editor.resized = 1;
  if (editor.editing) stir();
  errno = saved;
}

static void on_continue(int number) {
  (void)number;
  int saved = errno;
  editor.continued = 1;
  if (editor.editing) stir();
  errno = saved;
}

/* About to stop, or to be killed: the terminal is not left in our modes. In a signal handler. */
static void on_stop(void) {
  if (editor.editing) tcsetattr(STDIN_FILENO, TCSANOW, &editor.cooked);
}

static void take_signal(int number, void (*handler)(int), struct sigaction *before) {
  struct sigaction action = {.sa_handler = handler};
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  sigaction(number, &action, before);
}

/* The lock is held, and libedit's locale in force. */
static void catch_up(void) {
  if (editor.continued) {
    editor.continued = 0;
    edit.set(editor.el, EL_PREP_TERM, 0); /* it thinks that it is still as it was */
    edit.set(editor.el, EL_PREP_TERM, 1);
    fputs("\r\033[J", uns_terminal_screen());
    edit.set(editor.el, EL_REFRESH);
  }
  if (editor.resized) {
    editor.resized = 0;
    uns_terminal_resized();
    measure();
    erase(uns_terminal_screen());
    fflush(uns_terminal_screen());
    edit.resize(editor.el);
    fputs("\r\033[J", uns_terminal_screen());
    edit.set(editor.el, EL_REFRESH);
  }
}

/* ---- keys ---- */

static void enter(void) {
  uns_terminal_lock();
  uselocale(editor.locale);
}

/* While user code runs, or somebody waits, the terminal is free for output. */
static void leave(void) {
  uselocale(editor.outside);
  uns_terminal_unlock();
}

/* The next byte, or -1 at the end. Without the lock. */
static int take_byte(void) {
  if (editor.queue_at < editor.queue_size) return (unsigned char)editor.queue[editor.queue_at++];
  if (uns_input_buffered()) return fgetc(stdin); /* left over by a line's io.read */
  unsigned char byte;
  for (;;) {
    ssize_t count = read(STDIN_FILENO, &byte, 1);
    if (count == 1) return byte;
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == EAGAIN) {
      struct pollfd look = {.fd = STDIN_FILENO, .events = POLLIN};
      poll(&look, 1, -1);
      continue;
    }
    return -1;
  }
}

static bool byte_ready(void) { return editor.queue_at < editor.queue_size || uns_input_ready(true); }

/* Waits for a byte, and whatever else happens. False: there will be none. The lock is held before and after. */
static bool wait_byte(void) {
  for (;;) {
    if (editor.continued || editor.resized) catch_up();
    leave();
    bool going = true, ready = byte_ready();
    if (!ready) going = uns_input_wait(editor.turner);
    enter();
    if (uns_input_take_interrupt()) {
      editor.end = uns_signals_count() > 1 ? UNS_LINES_INTERRUPTED_TWICE : UNS_LINES_INTERRUPTED;
      return false;
    }
    if (!going) return false;
    if (ready) return true;
  }
}

/* Reads the rest of a character in UTF-8 that begins with `first`; what is none becomes U+FFFD. */
static bool decode(int first, wchar_t *character) {
  int more = first >= 0xF0 && first < 0xF5   ? 3
             : first >= 0xE0 && first < 0xF0 ? 2
             : first >= 0xC2 && first < 0xE0 ? 1
                                             : 0;
  *character = 0xFFFD;
  if (more == 0) {
    if (first < 0x80) *character = first;
    return true;
  }
  wchar_t value = first & (0x3F >> more);
  for (int i = 0; i < more; i++) {
    if (!wait_byte()) return false;
    int byte = take_byte();
    if (byte < 0) return false;
    if ((byte & 0xC0) != 0x80) return true; /* that byte is lost with it */
    value = value << 6 | (byte & 0x3F);
  }
  static const wchar_t least[] = {0, 0x80, 0x800, 0x10000};
  if (value >= least[more] && value <= 0x10FFFF && (value < 0xD800 || value > 0xDFFF)) *character = value;
  return true;
}

/* ---- text that comes faster than anybody types ---- */

/* Takes what is there, until there is a pause or a line. False without memory. */
static bool fill_queue(void) {
  size_t capacity = 1 << 16, size = 0;
  char *text = uns_malloc(capacity);
  struct pollfd look = {.fd = STDIN_FILENO, .events = POLLIN};
  while (text != NULL && size < BULK_MAX && poll(&look, 1, BULK_PAUSE_MS) > 0) {
    if (capacity - size < 4096) {
      char *larger = uns_realloc(text, 2 * capacity);
      if (larger == NULL) break;
      text = larger;
      capacity *= 2;
    }
    ssize_t count = read(STDIN_FILENO, text + size, 4096);
    if (count <= 0) break;
    bool line = memchr(text + size, '\n', (size_t)count) != NULL || memchr(text + size, '\r', (size_t)count) != NULL;
    size += (size_t)count;
    if (line) break;
  }
  uns_free(editor.queue);
  editor.queue = text;
  editor.queue_at = 0;
  editor.queue_size = size;
  return text != NULL;
}

/* Inserts the text at the head of the queue at once, without drawing each character. Control characters stay. */
static void insert_queue(void) {
  size_t size = 0, left = editor.queue_size - editor.queue_at;
  char *text = editor.queue + editor.queue_at, *copy = uns_malloc(left + 1);
  if (copy == NULL) return;
  mbstate_t state = {0};
  size_t written = 0;
  while (size < left && (unsigned char)text[size] >= 32 && text[size] != 127) {
    wchar_t character;
    size_t count = mbrtowc(&character, text + size, left - size, &state);
    if (count == (size_t)-2) break; /* the rest comes later */
    if (count == (size_t)-1 || count == 0) {
      memset(&state, 0, sizeof state);
      copy[written++] = '?';
      size++;
      continue;
    }
    memcpy(copy + written, text + size, count);
    written += count;
    size += count;
  }
  copy[written] = '\0';
  editor.queue_at += size;
  if (written > 0) {
    erase(uns_terminal_screen());
    edit.insert(editor.el, copy);
    edit.set(editor.el, EL_REFRESH);
  }
  uns_free(copy);
}

/* What libedit reads its characters by: 1, or 0 where the line ends without more. */
static int next_character(EditLine *el, wchar_t *character) {
  (void)el;
  for (;;) {
    if (!wait_byte()) return 0;
    int waiting = 0;
    if (editor.typed >= BULK_FROM && editor.queue_at == editor.queue_size &&
        ioctl(STDIN_FILENO, FIONREAD, &waiting) == 0 && waiting >= 64) {
      leave();
      bool filled = fill_queue();
      enter();
      if (filled) insert_queue();
      continue;
    }
    int byte = take_byte();
    if (byte < 0) return 0;
    uns_signals_forgive(); /* a Ctrl-C after this is a first one */
    editor.typed++;
    return decode(byte, character) ? 1 : 0;
  }
}

/* ---- completion ---- */

/* Shows the candidates in columns, above the line. */
static void show_list(const char *list) {
  FILE *screen = uns_terminal_screen();
  size_t widest = 0, count = 0;
  for (const char *at = list; *at != '\0'; at += strlen(at) + 1) {
    if (strlen(at) > widest) widest = strlen(at);
    count++;
  }
  size_t across = editor.columns / (widest + 2), column = 0, shown = 0;
  if (across == 0) across = 1;
  erase(screen);
  /* The line stays above, as a reader would expect it. */
  const LineInfo *line = edit.line(editor.el);
  fprintf(screen, "%s%.*s\r\n", editor.prompt, (int)(line->lastchar - line->buffer), line->buffer);
  for (const char *at = list; *at != '\0' && shown < LISTED_MAX; at += strlen(at) + 1, shown++) {
    bool last = ++column == across;
    fprintf(screen, "%-*s%s", last ? 0 : (int)widest + 2, at, last ? "\r\n" : "");
    if (last) column = 0;
  }
  if (column != 0) fputs("\r\n", screen);
  if (shown < count) fprintf(screen, "and %zu more\r\n", count - shown);
  edit.set(editor.el, EL_REFRESH);
}

static unsigned char complete(EditLine *el, int character) {
  (void)character;
  const LineInfo *line = edit.line(el);
  size_t size = (size_t)(line->cursor - line->buffer);
  char *text = uns_malloc(size + 1), *insert = NULL, *list = NULL;
  if (text == NULL) return CC_ERROR;
  memcpy(text, line->buffer, size);
  text[size] = '\0';
  leave();
  editor.complete(editor.turner->runtime, text, size, &insert, &list);
  enter();
  uns_free(text);
  unsigned char result = CC_NORM;
  if (insert != NULL && *insert != '\0') {
    edit.insert(el, insert);
    result = CC_REFRESH;
  } else if (list != NULL && *list != '\0') {
    show_list(list);
  } else {
    result = CC_ERROR; /* a beep */
  }
  uns_free(insert);
  uns_free(list);
  return result;
}

/* ---- a line ---- */

uns_lines_end uns_editor_read(const uns_turner *turner, const char *prompt, uns_editor_complete *completer,
                              const char **line, size_t *size) {
  uns_terminal_drain();
  measure();
  editor.turner = turner;
  editor.mailbox = turner->runtime->mailbox;
  editor.prompt = prompt;
  editor.complete = completer;
  editor.typed = 0;
  editor.end = UNS_LINES_EOF;
  editor.outside = uselocale((locale_t)0);
  editor.resized = editor.continued = 0;
  tcgetattr(STDIN_FILENO, &editor.cooked); /* as the last line has left it */
  uns_signals_set_patient(true);
  enter();
  editor.editing = 1;
  edit.resize(editor.el);
  uns_terminal_set_line(&screen_line);
  edit.set(editor.el, EL_PREP_TERM, 1); /* else it shows the prompt first, and the kernel echoes who is as fast as that */
  int count = 0;
  const char *text = edit.gets(editor.el, &count);
  bool whole = text != NULL && count > 0;
  if (!whole) {
    const LineInfoW *left = edit.wline(editor.el);
    bool empty = left->lastchar == left->buffer;
    if (editor.end == UNS_LINES_INTERRUPTED)
      fputs(empty ? "^C (again, or Ctrl-D, leaves)" : "^C", uns_terminal_screen());
    fputs("\r\n", uns_terminal_screen());
    fflush(uns_terminal_screen());
  }
  uns_terminal_set_line(NULL);
  editor.editing = 0;
  uns_free(editor.text);
  editor.text = NULL;
  if (whole) {
    while (count > 0 && (text[count - 1] == '\n' || text[count - 1] == '\r')) count--;
    editor.text = uns_malloc((size_t)count + 1);
    if (editor.text != NULL) memcpy(editor.text, text, (size_t)count);
  }
  leave();
  uns_signals_set_patient(false);
  editor.mailbox = NULL;
  if (!whole) return editor.end;
  *line = editor.text != NULL ? editor.text : "";
  *size = editor.text != NULL ? (size_t)count : 0;
  return UNS_LINES_READ;
}

void uns_editor_remember(const char *entry) {
  HistEvent event;
  locale_t before = uselocale(editor.locale);
  edit.history(editor.history, &event, H_ENTER, entry);
  uselocale(before);
}

/* ---- opening and closing ---- */

/* The user's, where it is one of UTF-8. */
static locale_t make_locale(void) {
  locale_t own = newlocale(LC_CTYPE_MASK, "", (locale_t)0);
  if (own != (locale_t)0) {
    locale_t before = uselocale(own);
    bool fits = MB_CUR_MAX >= 4;
    uselocale(before);
    if (fits) return own;
    freelocale(own);
  }
  return newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0);
}

static bool make_editor(void) {
  HistEvent event;
  FILE *screen = uns_terminal_screen();
  editor.el = edit.init("unsync", stdin, screen, screen, STDIN_FILENO, fileno(screen), fileno(screen));
  editor.history = edit.history_init();
  if (editor.el == NULL || editor.history == NULL) return false;
  edit.history(editor.history, &event, H_SETSIZE, HISTORY_MAX);
  edit.history(editor.history, &event, H_SETUNIQUE, 1);
  edit.set(editor.el, EL_HIST, edit.history, editor.history);
  edit.set(editor.el, EL_PROMPT, prompt_of);
  edit.set(editor.el, EL_EDITOR, "emacs");
  edit.set(editor.el, EL_SIGNAL, 0);
  edit.wset(editor.el, EL_ADDFN, L"unsync-complete", L"complete a name", complete); /* it copies narrow ones for good */
  edit.set(editor.el, EL_BIND, "^I", "unsync-complete", NULL);
  edit.set(editor.el, EL_BIND, "^R", "em-inc-search-prev", NULL);
  edit.source(editor.el, NULL); /* the user's ~/.editrc */
  edit.set(editor.el, EL_GETCFN, next_character);
  return true;
}

static void end_editor(void) {
  if (editor.el != NULL) edit.end(editor.el);
  if (editor.history != NULL) edit.history_end(editor.history);
  editor.el = NULL;
  editor.history = NULL;
}

/* os.exit asks nobody, and may come in the middle of a line. */
static void at_exit(void) { uns_editor_close(); }

bool uns_editor_open(void) {
  const char *kind = getenv("TERM");
  if (kind == NULL || *kind == '\0' || strcmp(kind, "dumb") == 0) return false;
  if (tcgetattr(STDIN_FILENO, &editor.cooked) != 0 || !load()) return false;
  editor.locale = make_locale();
  if (editor.locale == (locale_t)0) return false;
  if (!uns_terminal_open()) {
    freelocale(editor.locale);
    return false;
  }
  editor.prompt = "";
  locale_t before = uselocale(editor.locale);
  bool made = make_editor();
  if (!made) end_editor();
  uselocale(before);
  static bool registered;
  if (!registered) registered = atexit(at_exit) == 0;
  if (!made || !registered) {
    uns_terminal_close();
    freelocale(editor.locale);
    return false;
  }
  take_signal(SIGWINCH, on_resize, &editor.before_winch);
  take_signal(SIGCONT, on_continue, &editor.before_cont);
  uns_signals_on_stop(on_stop);
  editor.open = true;
  return true;
}

void uns_editor_close(void) {
  if (!editor.open) return;
  editor.open = false;
  uns_signals_on_stop(NULL);
  sigaction(SIGWINCH, &editor.before_winch, NULL);
  sigaction(SIGCONT, &editor.before_cont, NULL);
  bool inside = editor.editing; /* libedit itself has called who called us */
  if (inside) {
    uns_terminal_lock();
    erase(uns_terminal_screen());
    uns_terminal_set_line(NULL);
    uns_terminal_unlock();
    tcsetattr(STDIN_FILENO, TCSADRAIN, &editor.cooked);
  }
  uns_terminal_close();
  if (!inside) {
    end_editor();
    freelocale(editor.locale);
  }
  uns_free(editor.queue);
  uns_free(editor.text);
  editor.queue = editor.text = NULL;
  editor.queue_at = editor.queue_size = 0;
}
