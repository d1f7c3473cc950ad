// Compiles HLSL with Microsoft's compilers, without a device: for scripts/platforms, under Wine.
//
//   hlsl.exe d3dcompiler_47.dll cs_5_1 FILE…
//   hlsl.exe dxcompiler.dll     cs_6_4 FILE…
//
// The entry point is `main`; arguments are those that wgpu gives. Prints a line per file: `ok FILE BYTES MS`, or
// `FAIL FILE` and the compiler's words behind it. Exit code 1 if one fails, 2 if the compiler cannot be used.
#define COBJMACROS
#include <initguid.h>
#include <windows.h>
#include <d3dcommon.h>
#include <stdio.h>
#include <stdlib.h>

#define STRICT_HLSL (1 << 11) // D3DCOMPILE_ENABLE_STRICTNESS

typedef HRESULT(WINAPI *D3DCompileFn)(const void *, SIZE_T, const char *, const void *, void *, const char *, const char *,
                                      UINT, UINT, ID3DBlob **, ID3DBlob **);

// The part of dxcapi.h that is needed: methods in the order of their tables.
typedef struct {
  const void *text;
  SIZE_T bytes;
  UINT encoding;
} Source;
typedef struct Result Result;
typedef struct {
  void *query, *retain;
  ULONG(WINAPI *release)(Result *);
  HRESULT(WINAPI *status)(Result *, HRESULT *);
  HRESULT(WINAPI *result)(Result *, ID3DBlob **);
  HRESULT(WINAPI *errors)(Result *, ID3DBlob **);
} ResultTable;
struct Result {
  ResultTable *table;
};
typedef struct Compiler Compiler;
typedef struct {
  void *query, *retain, *release;
  HRESULT(WINAPI *compile)(Compiler *, const Source *, LPCWSTR *, UINT, void *, const GUID *, void **);
} CompilerTable;
struct Compiler {
  CompilerTable *table;
};
typedef HRESULT(WINAPI *CreateFn)(const GUID *, const GUID *, void **);
static const GUID CLASS_COMPILER = {0x73e22d93, 0xe6ce, 0x47f3, {0xb5, 0xbf, 0xf0, 0x66, 0x4f, 0x39, 0xc1, 0xb0}};
static const GUID COMPILER3 = {0x228b4687, 0x5a6a, 0x4730, {0x90, 0x0c, 0x97, 0x02, 0xb2, 0x20, 0x3f, 0x54}};
static const GUID RESULT = {0x58346cda, 0xdde7, 0x4497, {0x94, 0x61, 0x6f, 0x87, 0xaf, 0x5e, 0x06, 0x59}};

static D3DCompileFn fxc;
static Compiler *dxc;

static HRESULT with_dxc(const char *text, size_t bytes, const char *profile, ID3DBlob **code, ID3DBlob **words) {
  WCHAR target[16];
  MultiByteToWideChar(CP_UTF8, 0, profile, -1, target, 16);
  LPCWSTR arguments[] = {L"kernel.hlsl", L"-E", L"main", L"-T", target, L"-HV", L"2018", L"-no-warnings", L"-Ges"};
  Source source = {text, bytes, CP_UTF8};
  Result *result = NULL;
  HRESULT status = dxc->table->compile(dxc, &source, arguments, 9, NULL, &RESULT, (void **)&result);
  if (FAILED(status)) return status;
  result->table->status(result, &status);
  result->table->errors(result, words);
  if (SUCCEEDED(status)) result->table->result(result, code);
  result->table->release(result);
  return status;
}

static char *read_file(const char *path, size_t *bytes) {
  FILE *file = fopen(path, "rb");
  if (!file) return NULL;
  fseek(file, 0, SEEK_END);
  *bytes = ftell(file);
  rewind(file);
  char *text = malloc(*bytes + 1);
  if (text && fread(text, 1, *bytes, file) != *bytes) *bytes = 0;
  fclose(file);
  return text;
}

int main(int count, char **words) {
  if (count < 4) {
    fprintf(stderr, "usage: hlsl DLL PROFILE FILE...\n");
    return 2;
  }
  HMODULE library = LoadLibraryA(words[1]);
  if (!library) {
    fprintf(stderr, "cannot load %s: error %lu\n", words[1], GetLastError());
    return 2;
  }
  fxc = (D3DCompileFn)(void *)GetProcAddress(library, "D3DCompile");
  CreateFn create = (CreateFn)(void *)GetProcAddress(library, "DxcCreateInstance");
  if (!fxc && !(create && SUCCEEDED(create(&CLASS_COMPILER, &COMPILER3, (void **)&dxc)))) {
    fprintf(stderr, "%s is neither FXC nor DXC\n", words[1]);
    return 2;
  }
  int failed = 0;
  for (int i = 3; i < count; i++) {
    size_t bytes = 0;
    char *text = read_file(words[i], &bytes);
    if (!text || !bytes) {
      fprintf(stderr, "cannot read %s\n", words[i]);
      return 2;
    }
    ID3DBlob *code = NULL, *said = NULL;
    DWORD start = GetTickCount();
    HRESULT status = fxc ? fxc(text, bytes, words[i], NULL, NULL, "main", words[2], STRICT_HLSL, 0, &code, &said)
                         : with_dxc(text, bytes, words[2], &code, &said);
    if (SUCCEEDED(status) && code) {
      printf("ok %s %u %lu\n", words[i], (unsigned)ID3D10Blob_GetBufferSize(code), GetTickCount() - start);
    } else {
      failed++;
      printf("FAIL %s\n%.*s\n", words[i], said ? (int)ID3D10Blob_GetBufferSize(said) : 0,
             said ? (const char *)ID3D10Blob_GetBufferPointer(said) : "");
    }
    fflush(stdout);
    if (code) ID3D10Blob_Release(code);
    if (said) ID3D10Blob_Release(said);
    free(text);
  }
  return failed != 0;
}
