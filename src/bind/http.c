/*
 * http: what is asked of a server, and what becomes of the answer, as Lua values.
 *
 *   - A request is a userdata around a transfer, pinned while that is under way; it holds its future and its body.
 *     Lua's collector calls `release` for one that was half made.
 *   - The end of a transfer settles the future, on the state's main thread, outside of any task, under a pcall of ours.
 *   - User and password in a URL appear in no error and no response.
 * Arguments are checked and defaults set in lua/unsync/http.lua. How it travels: loop/transfer.c.
 */
#include "bind/http.h"

#include <arpa/inet.h>
#include <errno.h>
#include <lauxlib.h>
#include <limits.h>
#include <math.h>
#include <string.h>
#include <strings.h>

#include "core/error.h"
#include "core/packet.h"
#include "loop/future.h"
#include "loop/group.h"
#include "loop/transfer.h"

#define REQUEST_TYPE "unsync.HttpRequest"
#define HEADERS_TYPE "unsync.HttpHeaders"

/* User values: 1 the future, 2 the body that is sent, or nil. */
typedef struct {
  uns_transfer transfer;
  uns_runtime *runtime;
  const uns_future *future;
  int pin;            /* of the userdata itself, while under way */
  char *method, *url; /* owned; the URL without user and password */
  double timeout_s;
} request;

static void release(request *mine) {
  uns_transfer_release(&mine->transfer);
  uns_free(mine->method);
  uns_free(mine->url);
  mine->method = mine->url = NULL;
}

static int request_gc(lua_State *L) {
  request *mine = luaL_testudata(L, 1, REQUEST_TYPE);
  if (mine != NULL) release(mine);
  return 0;
}

/* What a script is told of a transfer that failed. */
static const char *code_of(const request *mine, CURLcode result) {
  long number = 0;
  uns_curl.easy_getinfo(mine->transfer.easy, CURLINFO_OS_ERRNO, &number);
  switch (result) {
    case CURLE_OPERATION_TIMEDOUT: return number == ETIMEDOUT ? "ETIMEDOUT" : "timeout";
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY: return "ENOTFOUND";
    case CURLE_OUT_OF_MEMORY: return "ENOMEM";
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_CIPHER:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_ISSUER_ERROR:
    case CURLE_SSL_CRL_BADFILE:
    case CURLE_SSL_INVALIDCERTSTATUS:
    case CURLE_SSL_PINNEDPUBKEYNOTMATCH:
    case CURLE_SSL_CLIENTCERT:
    case CURLE_SSL_ENGINE_INITFAILED:
    case CURLE_USE_SSL_FAILED: return "tls";
    case CURLE_TOO_MANY_REDIRECTS: return "redirects";
    case CURLE_GOT_NOTHING: /* closed before or within the answer */
    case CURLE_PARTIAL_FILE: return "EOF";
    case CURLE_UNSUPPORTED_PROTOCOL: {
      long redirects = 0; /* the first URL has been checked, so only a redirect can name another scheme */
      uns_curl.easy_getinfo(mine->transfer.easy, CURLINFO_REDIRECT_COUNT, &redirects);
      return mine->transfer.head_size == 0 && redirects == 0 ? "EPROTO" : "EPROTONOSUPPORT";
    }
    case CURLE_URL_MALFORMAT: return "EINVAL";
    case CURLE_COULDNT_CONNECT:
    case CURLE_SEND_ERROR:
    case CURLE_RECV_ERROR:
      if (mine->transfer.socket_error != 0) return uv_err_name(mine->transfer.socket_error);
      if (number > 0 && number != EINPROGRESS && number != EAGAIN)
        return uv_err_name(uv_translate_sys_error((int)number));
      return result == CURLE_COULDNT_CONNECT ? "ECONNREFUSED" : "ECONNRESET";
    default: return "EPROTO";
  }
}

/* How a transfer ended, for the protected functions below. */
typedef struct {
  request *mine;
  uns_transfer_end end;
  CURLcode result;
  const char *url; /* the last one asked, without user and password; NULL: the first */
} ending;

enum { ADDRESS_MAX = 320 }; /* a name has at most 253 bytes */

/* "host:port" of `url` into `text`; "" where that is not known. Calls no Lua, so that nothing is left behind. */
static void write_asked(char text[ADDRESS_MAX], const char *url) {
  char *host = NULL, *port = NULL;
  CURLU *parsed = uns_curl.url();
  text[0] = '\0';
  if (parsed != NULL && uns_curl.url_set(parsed, CURLUPART_URL, url, 0) == CURLUE_OK &&
      uns_curl.url_get(parsed, CURLUPART_HOST, &host, 0) == CURLUE_OK &&
      uns_curl.url_get(parsed, CURLUPART_PORT, &port, CURLU_DEFAULT_PORT) == CURLUE_OK)
    snprintf(text, ADDRESS_MAX, "%s:%s", host, port);
  uns_curl.free(host);
  uns_curl.free(port);
  uns_curl.url_cleanup(parsed);
}

/* Sets `address` in the error on top: the one that was tried, or for a name that nobody knows what was asked for. */
static void set_address(lua_State *L, const ending *end, const char *url) {
  char asked[ADDRESS_MAX];
  const char *address = end->mine->transfer.address;
  if (end->end == UNS_TRANSFER_ANSWERED && end->result == CURLE_COULDNT_RESOLVE_HOST) {
    write_asked(asked, url);
    address = asked;
  }
  if (*address == '\0') return;
  lua_pushstring(L, address);
  lua_setfield(L, -2, "address");
}

static void push_error(lua_State *L, const ending *end) {
  const request *mine = end->mine;
  const uns_transfer *transfer = &mine->transfer;
  const char *url = end->url != NULL ? end->url : mine->url;
  if (end->end == UNS_TRANSFER_LATE) {
    lua_pushfstring(L, "timeout: no complete answer within %f s", mine->timeout_s);
    uns_error_push(L, "timeout", "%s %s: %s", mine->method, url, lua_tostring(L, -1));
  } else if (transfer->too_big) {
    lua_pushfstring(L, "limit: the body has more than %I bytes (max_body)", (LUAI_UACINT)transfer->body_max);
    uns_error_push(L, "limit", "%s %s: %s", mine->method, url, lua_tostring(L, -1));
  } else if (transfer->head_too_big) {
    lua_pushfstring(L, "limit: the head of the answer has more than %d bytes", (int)UNS_TRANSFER_HEAD_MAX);
    uns_error_push(L, "limit", "%s %s: %s", mine->method, url, lua_tostring(L, -1));
  } else {
    const char *code, *text;
    if (transfer->broken != 0) { /* also where it made a callback stop libcurl */
      code = uv_err_name(transfer->broken);
      text = uv_strerror(transfer->broken);
    } else {
      code = code_of(mine, end->result);
      text = transfer->text[0] != '\0' ? transfer->text : uns_curl.easy_strerror(end->result);
      bool no_socket = end->result == CURLE_COULDNT_CONNECT && transfer->socket_error != 0;
      if (no_socket) text = uv_strerror(transfer->socket_error);
    }
    lua_pushnil(L);
    uns_error_push(L, code, "%s %s: %s: %s", mine->method, url, code, text);
  }
  lua_remove(L, -2);
  lua_pushstring(L, url);
  lua_setfield(L, -2, "url");
  lua_pushstring(L, mine->method);
  lua_setfield(L, -2, "method");
  set_address(L, end, url);
}

/* Pushes `text` in lower case, as far as ASCII goes. */
static void push_lower(lua_State *L, const char *text, size_t size) {
  luaL_Buffer buffer;
  char *lower = luaL_buffinitsize(L, &buffer, size);
  for (size_t i = 0; i < size; i++) {
    unsigned char c = (unsigned char)text[i];
    lower[i] = (char)(c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c);
  }
  luaL_pushresultsize(&buffer, size);
}

static bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

/* Enters one header line into the list at `list` and the table at `lookup`. */
static void add_header(lua_State *L, int list, int lookup, const char *line, size_t size) {
  const char *colon = memchr(line, ':', size);
  if (colon == NULL || colon == line) return;
  const char *end = line + size, *value = colon + 1;
  while (end > value && is_blank(end[-1])) end--;
  while (value < end && is_blank(*value)) value++;
  lua_createtable(L, 2, 0);
  lua_pushlstring(L, line, (size_t)(colon - line));
  lua_rawseti(L, -2, 1);
  lua_pushlstring(L, value, (size_t)(end - value));
  lua_rawseti(L, -2, 2);
  lua_rawseti(L, list, (lua_Integer)lua_rawlen(L, list) + 1);
  push_lower(L, line, (size_t)(colon - line));
  lua_pushvalue(L, -1);
  int known = lua_rawget(L, lookup);
  if (known == LUA_TSTRING) { /* it comes again: a list of its values, until all are there */
    lua_createtable(L, 2, 0);
    lua_insert(L, -2);
    lua_rawseti(L, -2, 1);
  } else if (known == LUA_TNIL) {
    lua_pop(L, 1);
  }
  lua_pushlstring(L, value, (size_t)(end - value));
  if (known != LUA_TNIL) lua_rawseti(L, -2, (lua_Integer)lua_rawlen(L, -2) + 1);
  lua_rawset(L, lookup);
}

/* The lists of values in the table at `lookup` become strings: joined at once, for a server may repeat a header often. */
static void join_repeated(lua_State *L, int lookup) {
  for (lua_pushnil(L); lua_next(L, lookup); lua_pop(L, 1)) {
    if (lua_type(L, -1) != LUA_TTABLE) continue;
    int values = lua_gettop(L);
    lua_Integer count = (lua_Integer)lua_rawlen(L, values);
    luaL_Buffer joined;
    lua_pushvalue(L, -2);
    luaL_buffinit(L, &joined);
    for (lua_Integer i = 1; i <= count; i++) {
      if (i > 1) luaL_addlstring(&joined, ", ", 2);
      lua_rawgeti(L, values, i);
      luaL_addvalue(&joined);
    }
    luaL_pushresult(&joined);
    lua_rawset(L, lookup);
  }
}

/* Reads the head that came: the headers as they came at `list`, by name at `lookup`; pushes the reason or nil. */
static void push_head(lua_State *L, const request *mine, int list, int lookup) {
  const char *at = mine->transfer.head, *end = mine->transfer.head + mine->transfer.head_size;
  bool first = true;
  lua_pushnil(L);
  while (at < end) {
    const char *newline = memchr(at, '\n', (size_t)(end - at));
    size_t size = newline != NULL ? (size_t)(newline - at) : (size_t)(end - at);
    if (first) {
      const char *last = at + size;
      while (last > at && is_blank(last[-1])) last--;
      const char *space = memchr(at, ' ', (size_t)(last - at));
      const char *reason = space != NULL ? memchr(space + 1, ' ', (size_t)(last - space - 1)) : NULL;
      if (reason != NULL && reason + 1 < last) {
        lua_pop(L, 1);
        lua_pushlstring(L, reason + 1, (size_t)(last - reason - 1));
      }
    } else {
      add_header(L, list, lookup, at, size);
    }
    first = false;
    at += size + 1;
  }
  join_repeated(L, lookup);
}

static void push_response(lua_State *L, const ending *end) {
  const request *mine = end->mine;
  long status = 0, redirects = 0;
  curl_off_t elapsed_us = 0;
  uns_curl.easy_getinfo(mine->transfer.easy, CURLINFO_RESPONSE_CODE, &status);
  uns_curl.easy_getinfo(mine->transfer.easy, CURLINFO_REDIRECT_COUNT, &redirects);
  uns_curl.easy_getinfo(mine->transfer.easy, CURLINFO_TOTAL_TIME_T, &elapsed_us);
  lua_createtable(L, 0, 8);
  int response = lua_gettop(L);
  lua_pushinteger(L, status);
  lua_setfield(L, response, "status");
  lua_pushlstring(L, mine->transfer.body != NULL ? mine->transfer.body : "", mine->transfer.body_size);
  lua_setfield(L, response, "body");
  lua_pushstring(L, end->url != NULL ? end->url : mine->url);
  lua_setfield(L, response, "url");
  lua_pushinteger(L, redirects);
  lua_setfield(L, response, "redirects");
  lua_pushnumber(L, (double)elapsed_us / 1e6);
  lua_setfield(L, response, "elapsed");
  lua_newtable(L);
  lua_newtable(L);
  luaL_setmetatable(L, HEADERS_TYPE);
  push_head(L, mine, response + 1, response + 2);
  lua_setfield(L, response, "reason");
  lua_setfield(L, response, "headers");
  lua_setfield(L, response, "header_list");
}

/* Protected: settles the future of the request at 1 by how it ended, the light userdata at 2. */
static int settle(lua_State *L) {
  const ending *end = lua_touserdata(L, 2);
  uns_runtime *runtime = end->mine->runtime;
  luaL_checkstack(L, 20, NULL);
  lua_getiuservalue(L, 1, 1);
  if (end->end == UNS_TRANSFER_ANSWERED && end->result == CURLE_OK) {
    push_response(L, end);
    uns_future_resolve(runtime, L, 3, 1);
  } else {
    push_error(L, end);
    lua_pushnil(L);
    uns_future_fail(runtime, L, 3, UNS_FUTURE_FAILED);
  }
  return 0;
}

/* `url` without user and password, for messages; owned by libcurl (curl.free); NULL without memory. */
static char *shown_url(const char *url, CURLU *parsed) {
  char *shown = NULL;
  CURLU *own = parsed == NULL ? uns_curl.url() : NULL;
  if (own != NULL && uns_curl.url_set(own, CURLUPART_URL, url, 0) == CURLUE_OK) parsed = own;
  if (parsed != NULL) {
    uns_curl.url_set(parsed, CURLUPART_USER, NULL, 0);
    uns_curl.url_set(parsed, CURLUPART_PASSWORD, NULL, 0);
    if (uns_curl.url_get(parsed, CURLUPART_URL, &shown, 0) != CURLUE_OK) shown = NULL;
  }
  if (own != NULL) uns_curl.url_cleanup(own);
  return shown;
}

/* The transfer is over: settles the future and lets go of the userdata, which may be collected afterwards. */
static void on_ended(uns_transfer *transfer, uns_transfer_end how, CURLcode result) {
  request *mine = uns_container_of(transfer, request, transfer);
  uns_runtime *runtime = mine->runtime;
  lua_State *L = runtime->L;
  char *effective = NULL, *shown = NULL;
  uns_curl.easy_getinfo(mine->transfer.easy, CURLINFO_EFFECTIVE_URL, &effective);
  if (effective != NULL && strchr(effective, '@') != NULL) shown = shown_url(effective, NULL);
  ending end = {mine, how, result, shown != NULL ? shown : effective};
  if (shown == NULL && effective != NULL && strchr(effective, '@') != NULL) end.url = NULL;
  if (effective != NULL && *effective == '\0') end.url = NULL;
  int top = lua_gettop(L);
  if (lua_checkstack(L, 8)) {
    uns_runtime_push_pin(runtime, L, mine->pin);
    lua_pushcfunction(L, settle);
    lua_pushvalue(L, -2);
    lua_pushlightuserdata(L, &end);
    if (lua_pcall(L, 2, 0, 0) != LUA_OK) { /* no memory for the answer: that is told instead */
      lua_getiuservalue(L, top + 1, 1);
      lua_insert(L, -2);
      uns_future_fail_safely(runtime, L, top + 2, UNS_FUTURE_FAILED);
    }
  }
  if (shown != NULL) uns_curl.free(shown);
  int pin = mine->pin;
  release(mine);
  lua_settop(L, top);
  uns_runtime_unpin(runtime, pin);
}

static bool is_of(const uns_transfer *transfer, const void *future) {
  return uns_container_of((uns_transfer *)(uintptr_t)transfer, request, transfer)->future == future;
}

/* runtime->stop: the request of `future` is not wanted any more. */
static bool stop(uns_runtime *runtime, uns_future *future) {
  uns_transfer *transfer = uns_transfer_find(runtime, is_of, future);
  if (transfer == NULL) return false;
  request *mine = uns_container_of(transfer, request, transfer);
  lua_State *L = runtime->L;
  uns_runtime_push_pin(runtime, L, mine->pin);
  lua_getiuservalue(L, -1, 1);
  lua_remove(L, -2);
  uns_runtime_unpin(runtime, mine->pin);
  release(mine); /* collected only after this: nothing above allocates */
  uns_http_run_waiting(runtime);
  return true;
}

/* ---- a request ---- */

/* A name that must be looked up: neither an address nor one that means this machine. */
static bool needs_lookup(const char *host) {
  unsigned char address[sizeof(struct in6_addr)];
  size_t size = strlen(host);
  if (host[0] == '[' || inet_pton(AF_INET, host, address) == 1) return false;
  if (strcasecmp(host, "localhost") == 0) return false;
  return !(size > 10 && strcasecmp(host + size - 10, ".localhost") == 0);
}

static const char no_memory[] = "not enough memory";

/* Looks at the URL. NULL if it is one we can ask; else what is wrong with it, static, or `no_memory`. */
static const char *read_url(request *mine, const char *url) {
  CURLU *parsed = uns_curl.url();
  char *scheme = NULL, *host = NULL, *shown = NULL;
  if (parsed == NULL) return no_memory;
  const char *problem = NULL;
  CURLUcode code = uns_curl.url_set(parsed, CURLUPART_URL, url, CURLU_NON_SUPPORT_SCHEME);
  if (code == CURLUE_OK) code = uns_curl.url_get(parsed, CURLUPART_SCHEME, &scheme, 0);
  if (code != CURLUE_OK) {
    problem = code == CURLUE_BAD_SCHEME ? "an absolute URL expected, as http://host/path" : uns_curl.url_strerror(code);
  } else if (strcmp(scheme, "http") != 0 && strcmp(scheme, "https") != 0) {
    problem = "http or https expected";
  } else if ((code = uns_curl.url_get(parsed, CURLUPART_HOST, &host, 0)) != CURLUE_OK) {
    problem = uns_curl.url_strerror(code);
  } else {
    mine->transfer.resolves = needs_lookup(host);
    shown = strchr(url, '@') != NULL ? shown_url(url, parsed) : NULL;
    mine->url = uns_copy_text(shown != NULL ? shown : url);
    if (mine->url == NULL) problem = no_memory;
  }
  uns_curl.free(scheme);
  uns_curl.free(host);
  uns_curl.free(shown);
  uns_curl.url_cleanup(parsed);
  return problem;
}

static lua_Number number_field(lua_State *L, int table, const char *name, lua_Number absent) {
  lua_Number number = lua_getfield(L, table, name) == LUA_TNIL ? absent : luaL_checknumber(L, -1);
  lua_pop(L, 1);
  return number;
}

static long count_field(lua_State *L, int table, const char *name) {
  lua_getfield(L, table, name);
  lua_Integer count = lua_tointeger(L, -1);
  lua_pop(L, 1);
  return count < INT_MAX ? (long)count : INT_MAX; /* any more is never reached */
}

/* The text stays valid as long as the table holds it. */
static const char *string_field(lua_State *L, int table, const char *name) {
  const char *text = lua_getfield(L, table, name) == LUA_TSTRING ? lua_tostring(L, -1) : NULL;
  lua_pop(L, 1);
  return text;
}

static bool flag_field(lua_State *L, int table, const char *name) {
  lua_getfield(L, table, name);
  bool flag = lua_toboolean(L, -1);
  lua_pop(L, 1);
  return flag;
}

static long milliseconds(lua_Number seconds) {
  lua_Number ms = ceil(seconds * 1000);
  return ms < 1 ? 1 : ms > 2147483647.0 ? 2147483647L : (long)ms;
}

/* Sets options until one fails. */
#define SET(option, value) (code = code != CURLE_OK ? code : uns_curl.easy_setopt(easy, option, value))

/* Method, and body if there is one: `size` bytes which the request's userdata holds. */
static CURLcode set_method(request *mine, const char *body, size_t size) {
  CURL *easy = mine->transfer.easy;
  CURLcode code = CURLE_OK;
  const char *method = mine->method;
  bool post = strcmp(method, "POST") == 0;
  if (body != NULL || post) {
    SET(CURLOPT_POST, 1L);
    SET(CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)size);
    SET(CURLOPT_POSTFIELDS, body != NULL ? body : "");
    /* Only a POST becomes a GET where it is sent elsewhere by a 301 or 302. */
    if (!post) SET(CURLOPT_POSTREDIR, (long)(CURL_REDIR_POST_301 | CURL_REDIR_POST_302));
  } else if (strcmp(method, "HEAD") == 0) {
    SET(CURLOPT_NOBODY, 1L);
  } else {
    SET(CURLOPT_HTTPGET, 1L);
  }
  bool natural = post || (body == NULL && (strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0));
  if (!natural) {
    SET(CURLOPT_CUSTOMREQUEST, method);
    mine->transfer.method_is_custom = true;
  }
  return code;
}

/* Gives the easy handle of the request what the table at `table` says. */
static CURLcode set_options(lua_State *L, int table, request *mine) {
  CURL *easy = mine->transfer.easy;
  CURLcode code = CURLE_OK;
  SET(CURLOPT_URL, string_field(L, table, "url"));
  SET(CURLOPT_SSL_VERIFYPEER, flag_field(L, table, "verify") ? 1L : 0L);
  SET(CURLOPT_SSL_VERIFYHOST, flag_field(L, table, "verify") ? 2L : 0L);
  const char *text = string_field(L, table, "ca_file");
  if (text != NULL) SET(CURLOPT_CAINFO, text);
  text = string_field(L, table, "proxy");
  if (text != NULL) SET(CURLOPT_PROXY, text);
  if (flag_field(L, table, "compressed")) SET(CURLOPT_ACCEPT_ENCODING, "");
  long redirects = count_field(L, table, "max_redirects");
  SET(CURLOPT_FOLLOWLOCATION, redirects > 0 ? 1L : 0L);
  SET(CURLOPT_MAXREDIRS, redirects);
  lua_Number seconds = number_field(L, table, "connect_timeout", 0);
  if (seconds > 0) SET(CURLOPT_CONNECTTIMEOUT_MS, milliseconds(seconds));
  SET(CURLOPT_HTTPHEADER, mine->transfer.headers);
  size_t size = 0;
  const char *body = NULL;
  if (lua_getfield(L, table, "body") == LUA_TSTRING) body = lua_tolstring(L, -1, &size);
  lua_pop(L, 1);
  return code != CURLE_OK ? code : set_method(mine, body, size);
}

/* The lines of the list `headers` in the table at `table`; false without memory. */
static bool copy_headers(lua_State *L, int table, request *mine) {
  lua_getfield(L, table, "headers");
  lua_Integer count = (lua_Integer)lua_rawlen(L, -1);
  for (lua_Integer i = 1; i <= count; i++) {
    lua_rawgeti(L, -1, i);
    struct curl_slist *longer = uns_curl.slist_append(mine->transfer.headers, luaL_checkstring(L, -1));
    lua_pop(L, 1);
    if (longer == NULL) return false;
    mine->transfer.headers = longer;
  }
  lua_pop(L, 1);
  return true;
}

/*
 * request(table) -> Future, or nil and what is wrong with the URL. The fields, all checked by our caller: url, method,
 * headers (a list of lines), body, timeout, connect_timeout, max_redirects, verify, ca_file, proxy, compressed,
 * max_body.
 */
static int http_request(lua_State *L) {
  uns_runtime *runtime = lua_touserdata(L, lua_upvalueindex(1));
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 1);
  if (runtime->closing) return luaL_error(L, "the event loop is ending");
  const char *problem;
  if (!uns_http_prepare(runtime, &problem)) return luaL_error(L, "unsync.http needs libcurl: %s", problem);
  request *mine = lua_newuserdatauv(L, sizeof *mine, 2);
  memset(mine, 0, sizeof *mine); /* from here on collectable */
  mine->runtime = runtime;
  uns_transfer_init(&mine->transfer, on_ended);
  luaL_setmetatable(L, REQUEST_TYPE);

  const char *url = string_field(L, 1, "url"), *method = string_field(L, 1, "method");
  if (url == NULL || method == NULL) return luaL_error(L, "url and method expected");
  problem = read_url(mine, url);
  if (problem == no_memory) return luaL_error(L, "%s", problem);
  if (problem != NULL) {
    luaL_pushfail(L);
    lua_pushstring(L, problem);
    return 2;
  }
  lua_Number max_body = number_field(L, 1, "max_body", HUGE_VAL);
  mine->transfer.body_max = max_body < (lua_Number)(SIZE_MAX / 4) ? (size_t)max_body : SIZE_MAX / 4;
  mine->timeout_s = number_field(L, 1, "timeout", 0);
  mine->method = uns_copy_text(method);
  if (mine->method == NULL || !copy_headers(L, 1, mine)) return luaL_error(L, "not enough memory");
  CURLcode code = uns_transfer_open(&mine->transfer, runtime);
  if (code == CURLE_OK) code = set_options(L, 1, mine);
  if (code != CURLE_OK) return luaL_error(L, "unsync.http: %s", uns_curl.easy_strerror(code));

  uns_future *future = uns_future_push(runtime, L, UNS_KIND_PROMISE, "http");
  future->stoppable = true;
  runtime->stop = stop;
  mine->future = future;
  lua_pushvalue(L, -1);
  lua_setiuservalue(L, 2, 1);
  lua_getfield(L, 1, "body");
  lua_setiuservalue(L, 2, 2);
  lua_pushvalue(L, 2);
  mine->pin = uns_runtime_pin(runtime, L);
  uint64_t deadline_ns = 0;
  if (mine->timeout_s > 0) {
    const lua_Number century = 3e9; /* further away than that is never */
    deadline_ns = uns_now_ns(runtime) + (uint64_t)ceil((mine->timeout_s < century ? mine->timeout_s : century) * 1e9);
  }
  if (uns_transfer_start(&mine->transfer, runtime, deadline_ns) != UNS_OK) {
    uns_runtime_unpin(runtime, mine->pin);
    return luaL_error(L, "not enough memory");
  }
  uns_group_adopt(runtime, L);
  return 1;
}

int uns_open_http(lua_State *L) {
  static const luaL_Reg functions[] = {{"request", http_request}, {NULL, NULL}};
  uns_runtime *runtime = uns_runtime_of(L);
  if (runtime == NULL) return luaL_error(L, "unsync.http: this state has no event loop");
  luaL_newmetatable(L, REQUEST_TYPE);
  lua_pushcfunction(L, request_gc); /* whether it was there or not: an attempt before this one may have failed here */
  lua_setfield(L, -2, "__gc");
  lua_pop(L, 1);
  luaL_newlibtable(L, functions);
  lua_pushlightuserdata(L, runtime);
  luaL_setfuncs(L, functions, 1);
  luaL_newmetatable(L, HEADERS_TYPE); /* its lookup is set in lua/unsync/http.lua */
  lua_setfield(L, -2, "Headers");
  return 1;
}
